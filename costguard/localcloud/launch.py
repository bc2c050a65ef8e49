"""Starting the platform from another program, and ending it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

READY_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.01
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class LaunchError(Exception):
    """The platform did not come up; the text is what it said itself."""


@dataclass(frozen=True)
class Running:
    """A platform that runs as our child."""

    url: str
    token: str
    admin_token: str
    process: subprocess.Popen[bytes]

    def stop(self) -> int:
        """End it in order and return its exit status: 0 if all went well.

        It ends every instance first. A platform that does not end in time is killed, and its
        instances then end themselves.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start(home: Path, *options: str, parent_fd: int | None = None) -> Running:
    """Start a platform on `home` and wait until it is ready; LaunchError if it is not in time.

    `parent_fd` is the read end of a pipe whose write end the caller keeps: when the caller dies,
    however it dies, the platform ends in order. The platform gets a session of its own, so that a
    Ctrl-C meant for the caller leaves it to the caller.
    """
    command = [sys.executable, "-m", "costguard.localcloud", "--home", str(home), *options]
    if parent_fd is not None:
        command += ["--parent-fd", str(parent_fd)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": _python_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=() if parent_fd is None else (parent_fd,),
            start_new_session=True,
        )
        endpoint = _wait_ready(process, home / "endpoint.json")
        if endpoint is None:
            process.kill()
            process.wait()
            raise LaunchError(_text_of(errors) or f"no {home / 'endpoint.json'} in time")
    return Running(endpoint["url"], endpoint["token"], endpoint["admin_token"], process)


def _wait_ready(process: subprocess.Popen[bytes], path: Path) -> dict[str, Any] | None:
    """What the platform announced; None if it ended or the time is up."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            endpoint: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            endpoint = {}
        if endpoint.get("pid") == process.pid:
            return endpoint
        time.sleep(POLL_S)
    return None


def _python_path() -> str:
    """Ours first, so that the platform is of the same version as its caller."""
    others = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(PACKAGE_ROOT), others] if others else [str(PACKAGE_ROOT)])


def _text_of(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()
