"""Running the guest's commands behind SSH exec channels.

As OpenSSH does without a terminal: the exit status is sent when the command ends, the channel is
closed when nobody holds its output any more, and closing the channel kills nothing.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import paramiko

CHUNK_BYTES = 32_768
CLOSED_CHECK_MS = 1_000
EXIT_NOT_STARTED = 127
EXIT_SIGNAL_BASE = 128  # a command ended by signal n exits 128 + n, as shells report it


class Child:
    """A started command. `exit_status` is set once `ended` is."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.ended = threading.Event()
        self.exit_status = EXIT_NOT_STARTED


class Spawner:
    """Starts commands and reaps every child of this process, adopted orphans included."""

    def __init__(self, disk: Path, environment: dict[str, str]) -> None:
        self._disk = disk
        self._environment = environment
        self._lock = threading.Condition()
        self._children: dict[int, Child] = {}
        self._closed = False
        threading.Thread(target=self._reap, name="reaper", daemon=True).start()

    def start(self, command: bytes) -> Child:
        """Start `/bin/sh -c command` in its own session; OSError or ValueError if it cannot be."""
        with self._lock:  # the reaper asks for a child only after it has been registered
            if self._closed:
                raise OSError("the instance is being turned off")
            child = Child(
                subprocess.Popen(
                    [b"/bin/sh", b"-c", command],
                    bufsize=0,
                    cwd=self._disk,
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            )
            self._children[child.process.pid] = child
            self._lock.notify()
        return child

    def close(self) -> None:
        """Start nothing from now on."""
        with self._lock:
            self._closed = True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                with self._lock:
                    self._lock.wait_for(lambda: self._children)
                continue
            with self._lock:
                child = self._children.pop(pid, None)
            if child is not None:
                code = os.waitstatus_to_exitcode(status)
                child.exit_status = code if code >= 0 else EXIT_SIGNAL_BASE - code
                child.process.returncode = code
                child.ended.set()


def serve(channel: paramiko.Channel, command: bytes, spawner: Spawner) -> None:
    """Run one command on its channel until it has ended and its output is through."""
    try:
        child = spawner.start(command)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            channel.sendall_stderr(f"cannot start the command: {error}\n".encode())
            channel.send_exit_status(EXIT_NOT_STARTED)
        channel.close()
        return
    process = child.process
    threading.Thread(target=_pump_in, args=(channel, process.stdin), daemon=True).start()
    outputs = [
        threading.Thread(target=_pump_out, args=(channel, pipe, send), daemon=True)
        for pipe, send in (
            (process.stdout, channel.sendall),
            (process.stderr, channel.sendall_stderr),
        )
    ]
    for output in outputs:
        output.start()
    child.ended.wait()
    with suppress(OSError):
        channel.send_exit_status(child.exit_status)
    for output in outputs:
        output.join()
    channel.close()


def _pump_in(channel: paramiko.Channel, pipe: IO[bytes]) -> None:
    """Feed the command until the client has no more; what nobody reads is thrown away."""
    with pipe:
        while data := channel.recv(CHUNK_BYTES):
            view = memoryview(data)
            with suppress(BrokenPipeError):
                while view:
                    view = view[pipe.write(view) :]


def _pump_out(channel: paramiko.Channel, pipe: IO[bytes], send: Callable[[bytes], object]) -> None:
    """Send what the command writes, as fast as the client's window lets it, to its end."""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    with pipe, suppress(OSError):  # the channel was closed: the command finds its pipe broken
        while not channel.closed:
            if not poller.poll(CLOSED_CHECK_MS):
                continue
            data = os.read(pipe.fileno(), CHUNK_BYTES)
            if not data:
                return
            send(data)
