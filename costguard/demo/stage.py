"""What a demo runs on: a home of its own, a rental platform, a daemon; and their certain end.

Everything is a child of this process and watches a pipe from it, so that nothing is left behind
even when the demo itself is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from costguard.cli.client import ask_daemon
from costguard.errors import EXIT_INTERNAL, CostguardError, UserError
from costguard.localcloud import launch

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAINER_NEEDS = ("torch", "transformers", "peft", "bitsandbytes")
DAEMON_START_S = 60.0
END_WITHIN_S = 20.0
POLL_S = 0.05
PLATFORM_TOML = """[providers.local]
poll_interval_s = 1
stop_latency_s = 5
"""


@dataclass
class Stage:
    """A home with a platform and a daemon on it."""

    home: Path
    cloud: launch.Running
    parent_fd: int
    daemon: subprocess.Popen[bytes] | None = None
    before: dict[str, str | None] = field(default_factory=dict)

    def start_daemon(self) -> int:
        """Start the daemon and wait until it answers; returns its pid."""
        log = (self.home / "daemon.log").open("ab")
        with log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "costguard", "daemon", "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "COSTGUARD_PARENT_FD": str(self.parent_fd)},
                pass_fds=(self.parent_fd,),
                start_new_session=True,
            )
        deadline = time.monotonic() + DAEMON_START_S
        while time.monotonic() < deadline and self.daemon.poll() is None:
            with contextlib.suppress(UserError):
                return int(ask_daemon("ping")["pid"])
            time.sleep(POLL_S)
        said = (self.home / "daemon.log").read_text(encoding="utf-8", errors="replace")
        lines = said.strip().splitlines()[-3:]
        raise UserError(
            "daemon",
            f"the daemon did not start: {' / '.join(lines)}",
            str(self.home),
            "",
            EXIT_INTERNAL,
        )

    def kill_daemon(self) -> None:
        """SIGKILL, as a crash or an out-of-memory killer would."""
        assert self.daemon is not None, "there is a daemon to kill"
        self.daemon.kill()
        self.daemon.wait()

    def truth(self) -> dict[str, Any]:
        """What the platform really knows, asked on its own side door."""
        return self._ask("/admin/truth", self.cloud.admin_token)

    def bill_lines(self, instance_id: str) -> list[dict[str, Any]]:
        """The platform's own bill for one instance."""
        answer = self._ask(f"/v1/bill?instance={instance_id}", self.cloud.token)
        lines: list[dict[str, Any]] = answer["lines"]
        return lines

    def _ask(self, path: str, token: str) -> dict[str, Any]:
        answer = requests.get(
            self.cloud.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=5
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def end(self) -> None:
        """End the daemon, then the platform with everything on it."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        self.cloud.stop()


@contextlib.contextmanager
def stage(keep_home: Path | None) -> Iterator[Stage]:
    """A stage that is taken down whatever happens on it, signals included."""
    home = _new_home(keep_home)
    before = os.environ.get("COSTGUARD_HOME")
    os.environ["COSTGUARD_HOME"] = str(home)
    read_end, write_end = os.pipe()
    try:
        (home / "config.toml").write_text(PLATFORM_TOML, encoding="utf-8")
        set_up = None
        try:
            cloud = launch.start(home / "localcloud", parent_fd=read_end)
            set_up = Stage(home, cloud, read_end)
            yield set_up
        except launch.LaunchError as error:
            raise UserError(
                "localcloud", f"the local platform did not start: {error}", str(home), ""
            ) from error
        finally:
            with _undisturbed():
                if set_up is not None:
                    set_up.end()
    finally:
        os.close(write_end)
        os.close(read_end)
        if before is None:
            del os.environ["COSTGUARD_HOME"]
        else:
            os.environ["COSTGUARD_HOME"] = before
        if keep_home is None:
            shutil.rmtree(home, ignore_errors=True)


def require_trainer() -> None:
    """UserError naming what is missing, where the trainer's libraries are not installed."""
    missing = [name for name in TRAINER_NEEDS if find_spec(name) is None]
    if missing:
        raise UserError(
            "trainer_missing",
            f"the demo trains for real and needs {', '.join(missing)}",
            sys.prefix,
            "install the trainer: pip install 'costguard[trainer]', or run `make demo`",
        )


class Interrupted(CostguardError):
    """SIGTERM came; the demo cleans up and ends with 143."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that it cleans up as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise Interrupted("terminated")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No second Ctrl-C or SIGTERM interrupts the clean-up; it ends by itself in seconds."""
    kept = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _new_home(keep_home: Path | None) -> Path:
    if keep_home is None:
        return Path(tempfile.mkdtemp(prefix="costguard-demo-"))
    keep_home = keep_home.expanduser().absolute()
    if keep_home.exists() and any(keep_home.iterdir()):
        raise UserError(
            "not_empty",
            "the folder for the demo's home is not empty",
            str(keep_home),
            "name a new one: a demo starts from nothing",
        )
    keep_home.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_home.chmod(0o700)
    return keep_home
