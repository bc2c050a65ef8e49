"""`install`: what is missing, put into an environment of our own.

Prints `install` messages as JSON lines while it works, so that the far end knows that the line
lives; where it can print no more, the line is gone, and pip ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent.answers import answer, refuse
from costguard.agent.environment import (
    InstallError,
    choose,
    folder_of,
    make,
    pip_command,
    pip_environment,
    seal,
)
from costguard.agent.spec import SPEC_NAME, load_spec
from costguard.core.environment import why_pip_failed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from costguard.agent.interpreters import Interpreter
    from costguard.agent.spec import Install

POLL_S = 0.2
TELL_S = 2.0
LINE_CHARS = 200
LOG_TAIL_BYTES = 16 * 1024
END_S = 5.0


def run(_arguments: argparse.Namespace) -> int:
    """Has the environment made, and says which Python it is; exit 3 with the reason why not."""
    spec = load_spec(Path(SPEC_NAME))
    install, env = spec.install, {**os.environ, **spec.env}
    found = choose(spec, env, Path())
    if found.chosen is not None:
        return answer({"t": "install", "state": "present", "python": found.chosen.path})
    lacks = ", ".join(found.missing)
    if install is None or not install.allowed:
        return refuse("missing_modules", f"no Python here can import: {lacks}")
    wants_torch = "torch" in spec.needs
    if found.base is None or (wants_torch and found.base.modules.get("torch") is None):
        # Which build fits the driver is known by whoever made the image, and it has 3 GB.
        return refuse("no_torch", "no Python here has torch: take an image with PyTorch")
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    folder = folder_of(install, found.base, Path())
    try:
        progress = _Progress(install.within_s, found.missing)
        with _lock(folder, progress):
            # Another job may have made it meanwhile; one that has lost something is made anew.
            made = choose(spec, env, Path()).chosen
            if made is None:
                _fill(install, found.base, folder, env, progress)
    except InstallError as error:
        return refuse(error.code, str(error))
    after = choose(spec, env, Path())
    if after.chosen is None:
        lacks = ", ".join(after.missing)
        return refuse("install_failed", f"after the installation there is still missing: {lacks}")
    seconds = round(progress.seconds(), 1)
    told = {"t": "install", "state": "installed", "python": after.chosen.path}
    return answer({**told, "seconds": seconds})


class _Progress:
    """How long it has taken, told every two seconds with the last line that pip said."""

    def __init__(self, within_s: float, wanted: Sequence[str]) -> None:
        self._within_s = within_s
        self._wanted = list(wanted)
        self._began = self._told = time.monotonic()
        self._tell("begins")

    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def step(self, line: str) -> None:
        """Waits a moment; InstallError when the allowance is used up."""
        if self.seconds() >= self._within_s:
            what = f"it took longer than the {self._within_s:.0f} s allowed; last: {line}"
            raise InstallError("install_timeout", what)
        time.sleep(POLL_S)
        if time.monotonic() - self._told >= TELL_S:
            self._tell(line)

    def _tell(self, line: str) -> None:
        self._told = time.monotonic()
        told = {"t": "install", "state": "installing", "packages": self._wanted}
        told["line"] = line[:LINE_CHARS]
        seconds = round(self.seconds(), 1)
        answer({**told, "seconds": seconds, "within_s": self._within_s})


def _fill(
    install: Install,
    base: Interpreter,
    folder: Path,
    env: Mapping[str, str],
    progress: _Progress,
) -> None:
    python = make(base, folder, env)
    log = folder.with_suffix(".log")
    surroundings = pip_environment(env, folder.parent)
    with log.open("wb") as output:
        pip = subprocess.Popen(
            pip_command(python, folder, install),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=surroundings,
            start_new_session=True,
        )
    with _ended(pip):
        while pip.poll() is None:
            progress.step(_last_line(log))
    if pip.returncode != 0:
        raise InstallError("install_failed", why_pip_failed(_tail(log)))
    shutil.rmtree(surroundings["PIP_CACHE_DIR"], ignore_errors=True)  # the environment is kept
    seal(base, folder, install)


@contextlib.contextmanager
def _ended(pip: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever ends the block, nothing of pip is left."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pip.pid, signal.SIGKILL)
        pip.wait(END_S)


@contextlib.contextmanager
def _lock(folder: Path, progress: _Progress) -> Iterator[None]:
    """One at a time makes an environment; another waits for it, within its own allowance."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("wb") as file:
        while not _taken(file.fileno()):
            progress.step("another job is installing the same")
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a network's file system without locks: then two may do the same work
    return True


def _tail(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()


def _last_line(log: Path) -> str:
    lines = [line for line in _tail(log) if line.strip()]
    return lines[-1].strip() if lines else ""


def _end(_number: int, _frame: Any) -> None:
    raise SystemExit(1)
