"""Powering the instance off from inside, as the platform or the user has named the command."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

AGAIN_MS = 60_000


class GuestStop:
    """Runs the command when told, and again a minute later for as long as we are still alive.

    A list of arguments, never a shell, and only what the order names: there is no default.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.pids: set[int] = set()
        self._argv = tuple(argv)
        self._attempts = 0
        self._next_ms: int | None = None
        self._processes: list[tuple[int, subprocess.Popen[bytes]]] = []

    @property
    def tried(self) -> bool:
        """Whether it has been run at all."""
        return self._attempts > 0

    def run(self, now_ms: int) -> dict[str, Any] | None:
        """Runs it if it is due; returns the `in_guest_stop` message of the attempt, or None."""
        if self._next_ms is not None and now_ms < self._next_ms:
            return None
        self._next_ms = now_ms + AGAIN_MS
        self._attempts += 1
        message: dict[str, Any] = {"attempt": self._attempts, "argv": list(self._argv)}
        try:
            process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            return {**message, "error": f"{type(error).__name__}: {error}"}
        self._processes.append((self._attempts, process))
        self.pids.add(process.pid)
        return {**message, "pid": process.pid}

    def poll(self) -> list[dict[str, Any]]:
        """An `in_guest_stop` message for every attempt that has returned since the last call."""
        done = [(at, process) for at, process in self._processes if process.poll() is not None]
        for at, process in done:
            self._processes.remove((at, process))
            self.pids.discard(process.pid)
        return [
            {"attempt": at, "pid": process.pid, "returncode": process.returncode}
            for at, process in done
        ]
