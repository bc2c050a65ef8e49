"""Start the daemon as a process of its own, which outlives the command that wanted it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import costguard
from costguard import paths
from costguard.cli.client import GONE, ask_daemon
from costguard.errors import EXIT_INTERNAL, UserError
from costguard.lang import _

START_TIMEOUT_S = 60.0
POLL_S = 0.05
PING_TIMEOUT_S = 5.0
END_WITHIN_S = 30.0
LOG_LINES_SHOWN = 5


def daemon_pid() -> int | None:
    """The process id of the daemon that answers on this home's socket, if one does."""
    try:
        return int(ask_daemon("ping", timeout_s=PING_TIMEOUT_S)["pid"])
    except UserError as error:
        if error.code not in GONE:
            raise
        return None


def ensure_daemon(
    timeout_s: float = START_TIMEOUT_S, command: tuple[str, ...] | None = None
) -> bool:
    """Have a daemon answering when this returns; whether it had to be started.

    Raises UserError with what the daemon said when it did not come up.
    """
    if daemon_pid() is not None:
        return False
    home = paths.ensure_home()
    log = paths.log_path()
    logged_before = log.stat().st_size if log.exists() else 0
    process = _spawn(command or (sys.executable, "-m", "costguard", "daemon", "run"), home, log)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        # Read before asking: a daemon that came up and ended in between must not look silent.
        ended = process.poll() is not None
        if daemon_pid() is not None:
            # Reaped when it ends: as a zombie it would look alive to whoever asks for its pid.
            threading.Thread(target=process.wait, daemon=True).start()
            return not ended  # ended: another start was faster, and ours gave way
        if ended:
            raise _did_not_start(log, logged_before, _("it ended at once"))
        time.sleep(POLL_S)
    process.terminate()
    process.wait()
    raise _did_not_start(log, logged_before, _("it did not answer in time"))


def stop_daemon(mode: str, timeout_s: float, end_within_s: float = END_WITHIN_S) -> None:
    """Have the daemon end, and return once it no longer answers.

    `mode` is "pause" (everything is paused and seen stopped first, which takes its time) or
    "leave". Raises UserError, `no_daemon` where none runs.
    """
    ask_daemon("stop", {"mode": mode}, timeout_s)
    deadline = time.monotonic() + end_within_s
    while daemon_pid() is not None:
        if time.monotonic() > deadline:
            raise UserError(
                "daemon_stays",
                _("the daemon said that it would end, and still answers"),
                str(paths.pid_path()),
                _("look at {log}").format(log=paths.log_path()),
                EXIT_INTERNAL,
            )
        time.sleep(POLL_S)


def _spawn(command: tuple[str, ...], home: Path, log: Path) -> subprocess.Popen[bytes]:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,  # Ctrl-C and a closed terminal are not for the daemon
            cwd=Path(costguard.__file__).resolve().parent.parent,
            env={**os.environ, "COSTGUARD_HOME": str(home)},
        )
    finally:
        os.close(descriptor)


def _did_not_start(log: Path, logged_before: int, why: str) -> UserError:
    with log.open("rb") as stream:
        stream.seek(logged_before)
        lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    said = " / ".join(line.strip() for line in lines[-LOG_LINES_SHOWN:]) or _("it said nothing")
    return UserError(
        "daemon_failed",
        _("the daemon did not start: {why}: {said}").format(why=why, said=said),
        str(log),
        _("mend that, then try again"),
        EXIT_INTERNAL,
    )
