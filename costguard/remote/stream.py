"""The attached channel: journal records and heartbeats up, leases and stops down."""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any

import paramiko

from costguard.remote.ssh import UnreachableError, close_channel, open_channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHANNEL_TIMEOUT_S = 30.0
SLICE_S = 0.25
RECEIVE_BYTES = 256 * 1024
LINE_BYTES_MAX = 8 * 1024 * 1024
WAITING_MAX = 1000


class Stream:
    """One `agent.pyz attach` over SSH; ends with UnreachableError, as every stream does."""

    def __init__(
        self, client: paramiko.SSHClient, agent: Sequence[str], directory: str, after_seq: int
    ) -> None:
        argv = [*agent, "attach", f"--dir={directory}", f"--after={after_seq}"]
        self._down: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        try:
            self._channel = open_channel(client, CHANNEL_TIMEOUT_S)
            self._channel.exec_command(shlex.join(argv))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise UnreachableError(f"attach: {type(error).__name__}: {error}") from error
        threading.Thread(target=self._write, name="link-write", daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> bool:
        """Queues a message; False when the line is so far behind that it would be stale."""
        if self._down.qsize() >= WAITING_MAX:
            return False
        self._down.put(json.dumps(message).encode() + b"\n")
        return True

    def messages(self, silence_s: float) -> Iterator[dict[str, Any] | None]:
        """What the agent sends; None now and then, so that the caller can look around.

        Raises UnreachableError when the channel ends, or nothing whole has come for
        `silence_s`: half-open connections look like that.
        """
        pending = b""
        heard = time.monotonic()
        self._channel.settimeout(SLICE_S)
        while True:
            data = self._receive()
            if data:
                *lines, pending = (pending + data).split(b"\n")
                for message in filter(None, map(_parse, lines)):
                    heard = time.monotonic()
                    yield message
            if data == b"":
                raise UnreachableError(f"the stream ended: {self._last_words()}")
            if time.monotonic() - heard > silence_s:
                raise UnreachableError(f"nothing heard for {silence_s} s")
            if len(pending) > LINE_BYTES_MAX:
                raise UnreachableError("a line without an end")
            yield None

    def close(self) -> None:
        """Ends the stream and its thread."""
        self._down.put(None)
        close_channel(self._channel)

    def _receive(self) -> bytes | None:
        """New bytes, b"" at the end, None when nothing has come within a slice."""
        try:
            return self._channel.recv(RECEIVE_BYTES)
        except TimeoutError:
            return None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise UnreachableError(f"stream: {type(error).__name__}: {error}") from error

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            if self._channel.recv_stderr_ready():
                return self._channel.recv_stderr(2000).decode("utf-8", "replace").strip()[-300:]
        return "no reason given"

    def _write(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while (line := self._down.get()) is not None:
                self._channel.sendall(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("t"), str) else None
