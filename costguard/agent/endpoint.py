"""Where the agent listens: a Unix socket in its directory, always named from inside it.

A full path could be longer than a socket's may be (104 bytes on macOS, 108 on Linux).
"""

from __future__ import annotations

import socket

SOCKET_NAME = "agent.sock"


def connect() -> socket.socket:
    """A connection to the agent of the current directory; raises OSError when there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(SOCKET_NAME)
    except OSError:
        sock.close()
        raise
    return sock
