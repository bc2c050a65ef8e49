"""`attach`: the far end of the SSH channel, joined to the agent's socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import TYPE_CHECKING

from costguard.agent.answers import refuse
from costguard.agent.endpoint import connect

if TYPE_CHECKING:
    import argparse

COPY_BYTES = 64 * 1024
EXIT_NO_AGENT = 4


def run(arguments: argparse.Namespace) -> int:
    """Joins standard input and output to the agent's socket until either ends."""
    try:
        sock = connect()
    except OSError as error:
        refuse("no_agent", f"no agent serves this directory: {error}")
        return EXIT_NO_AGENT
    sock.sendall(json.dumps({"t": "attach", "after": arguments.after}).encode() + b"\n")
    threading.Thread(target=_copy_down, args=(sock,), daemon=True).start()
    with contextlib.suppress(OSError):
        while data := sock.recv(COPY_BYTES):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
    os._exit(0)  # the other thread may be blocked in read for ever


def _copy_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, COPY_BYTES):
            sock.sendall(data)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
