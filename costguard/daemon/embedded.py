"""The embedded platform behind `provider = "local"`: started when first needed.

It is a rental platform, so it outlives a daemon that was killed, and the next daemon finds its
instances again. An orderly end of the daemon with nothing running ends it too; otherwise it ends
by itself once nothing is on and nobody has asked for a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from costguard.errors import EXIT_INTERNAL, UserError
from costguard.localcloud import launch
from costguard.providers.local import LocalProvider, endpoint_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EXIT_WHEN_IDLE_S = 60
# Of `[providers.local]`: how the platform bills, as its command line has it.
PASSED_ON = (
    "port",
    "quantum_s",
    "rounding",
    "minimum_s",
    "minimum_charge",
    "zone",
    "disk_price",
)


class Embedded:
    """Opens the local provider on this home's platform, starting the platform if it is not up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._running: launch.Running | None = None
        self._provider: LocalProvider | None = None
        self._endpoint: Mapping[str, str] | None = None

    def provider(self, settings: Mapping[str, Any]) -> LocalProvider:
        """The adapter for the platform as it is up now."""
        with self._lock:
            if not self._is_up():
                self._start(settings)
            endpoint = endpoint_settings(self._directory)
            if endpoint is None:
                raise _not_started(self._directory, "it left no endpoint file")
            if self._provider is None or endpoint != self._endpoint:
                self._provider = LocalProvider.from_settings({**settings, **endpoint})
                self._endpoint = endpoint
            return self._provider

    def stop(self) -> None:
        """End the platform, whoever started it; the caller has seen that nothing runs on it."""
        with self._lock:
            if self._running is not None:
                self._running.stop()
                self._running = None
                return
            pid = self._pid()
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def _is_up(self) -> bool:
        if self._running is not None:
            return self._running.process.poll() is None
        return self._pid() is not None

    def _pid(self) -> int | None:
        """The process that the endpoint file names, if it lives and holds the platform's lock."""
        try:
            pid = int(json.loads((self._directory / "endpoint.json").read_text("utf-8"))["pid"])
            os.kill(pid, 0)
        except (OSError, ValueError, KeyError):
            return None
        return pid if _is_locked(self._directory / "lock") else None

    def _start(self, settings: Mapping[str, Any]) -> None:
        """Start it, on the port that the config names, if it names one."""
        options = ["--exit-when-idle-s", str(EXIT_WHEN_IDLE_S)]
        for key in PASSED_ON:
            if key in settings:
                options += [f"--{key.replace('_', '-')}", str(settings[key])]
        try:
            self._running = launch.start(self._directory, *options)
        except launch.LaunchError as error:
            raise _not_started(self._directory, str(error)) from error


def _is_locked(path: Path) -> bool:
    """Whether a living platform holds its lock: a pid alone may be someone else's by now."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _not_started(directory: Path, why: str) -> UserError:
    return UserError(
        "localcloud",
        f"the local rental platform did not start: {why}",
        str(directory),
        "mend that, then try again",
        EXIT_INTERNAL,
    )
