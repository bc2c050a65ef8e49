from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from costguard.cli.client import ask, ask_daemon
from costguard.errors import UserError


def test_an_answer_comes_back(daemon: Any, docs: SimpleNamespace) -> None:
    """The result of the request is what the daemon said, Chinese and all."""
    daemon.answers["status"] = docs.status(docs.job(job="客服"))
    assert ask("status", {"job": "客服"})["jobs"][0]["job"] == "客服"
    assert daemon.asked("status") == [{"job": "客服"}]


def test_the_daemons_error_is_raised_with_its_exit_code(daemon: Any) -> None:
    """What, where, hint and exit code cross the wire."""
    daemon.answers["submit"] = {
        "error": {"code": "x", "what": "w", "where": "r", "hint": "h", "exit_code": 7}
    }
    with pytest.raises(UserError) as caught:
        ask_daemon("submit")
    assert caught.value == UserError("x", "w", "r", "h", 7)


def test_without_a_daemon_commands_say_so() -> None:
    """What would change something needs a daemon."""
    with pytest.raises(UserError) as caught:
        ask("pause", {"job": "kefu"})
    assert caught.value.code == "no_daemon"
    assert caught.value.exit_code == 1
    assert "daemon start" in caught.value.hint


def test_without_a_daemon_reads_come_from_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's own answer is given, read-only."""
    told: list[Any] = []

    def answer(do: str, args: Any) -> Any:
        told.append((do, args))
        return {"jobs": []}

    module = SimpleNamespace(answer=answer)
    monkeypatch.setitem(sys.modules, "costguard.report.documents", module)
    assert ask("status", {"job": "kefu"}) == {"jobs": []}
    assert told == [("status", {"job": "kefu"})]


@pytest.mark.parametrize("raw", [b"", b'{"ok": tr'])
def test_an_answer_that_is_cut_off_is_no_answer(daemon: Any, raw: bytes) -> None:
    """Half a line is not taken for anything; whether the command was taken is left open."""
    daemon.raw["pause"] = raw
    with pytest.raises(UserError) as caught:
        ask("pause", {"job": "kefu"})
    assert caught.value.code == ("bad_answer" if raw else "daemon_gone")


def test_a_daemon_that_does_not_answer_is_given_up(daemon: Any) -> None:
    """After the time-out there is one message, with the log's place."""
    import threading

    hold = threading.Event()
    daemon.answers["report"] = lambda args: {"held": hold.wait(5)}
    with pytest.raises(UserError) as caught:
        ask("report", {}, 0.05)
    hold.set()
    assert caught.value.code == "daemon_silent"
    assert "daemon.log" in caught.value.hint


def test_an_answer_that_has_another_shape_is_refused(daemon: Any) -> None:
    """JSON that is not the protocol's is an error, not a crash."""
    daemon.raw["status"] = b"[1, 2]\n"
    with pytest.raises(UserError) as caught:
        ask("status")
    assert caught.value.code == "bad_answer"
