"""Words to the service manager: ready, still alive, ending. Nothing happens where none listens.

"Still alive" is for the loop to say after a pass that succeeded, never for a thread of its own: a
watchdog that is fed while nothing is watched over any more is worse than none.
"""

from __future__ import annotations

import os
import socket

READY = "READY=1"
ALIVE = "WATCHDOG=1"
ENDING = "STOPPING=1"


def tell(state: str) -> bool:
    """Whether the word went out. A manager that is gone must not stop the daemon: no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket of Linux
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(1.0)
            line.sendto(state.encode(), address)
    except OSError:
        return False
    return True
