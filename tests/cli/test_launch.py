from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from costguard.cli.launch import daemon_pid, ensure_daemon, stop_daemon
from costguard.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER = """
import json, os, socket, sys
print("serving", flush=True)
server = socket.socket(socket.AF_UNIX)
server.bind(os.environ["COSTGUARD_HOME"] + "/daemon.sock")
server.listen()
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rwb") as stream:
        request = json.loads(stream.readline())
        result = {"pid": os.getpid(), "version": "x", "session": os.getsid(0)}
        stream.write(json.dumps({"ok": True, "result": result}).encode() + b"\\n")
    if request["do"] == "stop":
        os.unlink(os.environ["COSTGUARD_HOME"] + "/daemon.sock")
        sys.exit()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The command line of a small daemon; whatever of it still runs is ended."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    yield (sys.executable, str(script))
    pid = daemon_pid()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    """Whether the process has ended and was reaped, within 5 s."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_a_daemon_is_started_once(server: tuple[str, ...], home: Path) -> None:
    """The first call starts it, in a session of its own, with a private log; no second one does."""
    assert ensure_daemon(command=server)
    pid = daemon_pid()
    assert pid is not None
    assert os.getsid(pid) == pid
    assert not ensure_daemon(command=server)
    assert daemon_pid() == pid
    log = home / "daemon.log"
    assert log.read_text() == "serving\n"
    assert log.stat().st_mode & 0o077 == 0


def test_stopping_returns_when_it_is_gone(server: tuple[str, ...]) -> None:
    """Nothing answers and no process, not even a zombie, is left afterwards."""
    ensure_daemon(command=server)
    pid = daemon_pid()
    assert pid is not None
    stop_daemon("leave", 5)
    assert daemon_pid() is None
    assert is_gone(pid)


def test_a_daemon_that_fails_shows_what_it_said(home: Path) -> None:
    """Its last words are the message, those of earlier daemons are not."""
    (home / "daemon.log").write_text("an old story\n")
    command = (sys.executable, "-c", "raise SystemExit('port 80 is in use')")
    with pytest.raises(UserError, match="port 80 is in use") as caught:
        ensure_daemon(command=command)
    assert caught.value.code == "daemon_failed"
    assert "an old story" not in caught.value.what
    assert caught.value.where == str(home / "daemon.log")


def test_a_daemon_that_never_answers_is_ended(tmp_path: Path) -> None:
    """It is not left behind half started."""
    mark = tmp_path / "pid"
    script = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(UserError, match="did not answer in time"):
        ensure_daemon(timeout_s=0.4, command=(sys.executable, "-c", script))
    if mark.exists():
        assert is_gone(int(mark.read_text()))


def test_stopping_says_when_there_is_none() -> None:
    """Without a daemon there is nothing to stop."""
    with pytest.raises(UserError) as caught:
        stop_daemon("pause", 1)
    assert caught.value.code == "no_daemon"


def test_a_daemon_that_will_not_end_is_reported(daemon: Any) -> None:
    """It said yes and still answers: that is said, not hidden."""
    daemon.answers["stop"] = {"unfinished": 0}
    with pytest.raises(UserError) as caught:
        stop_daemon("leave", 1, end_within_s=0.1)
    assert caught.value.code == "daemon_stays"
