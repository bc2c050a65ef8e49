from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import costguard.daemon.drills
from costguard.cli import drill as cli_drill
from costguard.cli.main import main
from costguard.providers.checkup import Finding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace

    from tests.cli.conftest import FakeDaemon

PLAN = {
    "spec": "{}",
    "job": "drill-x",
    "gpu": "RTX 4090",
    "price_yuan_per_hour": "1.98",
    "quantum_s": 3600,
    "usual_minutes": 12,
    "usual_yuan": "3.96",
    "most_yuan": "5.94",
}
SHOWN = {"schema": "costguard.drill/1", "is_fine": True, "timer_is_proven": True}
COMMAND = ("doctor", "--provider", "compshare", "--drill")


@pytest.fixture
def drilling(
    home: Path, daemon: FakeDaemon, docs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> FakeDaemon:
    """A daemon that rents at once, and gives back once it is told to release."""

    def status(_: Any) -> dict[str, Any]:
        state = "released" if daemon.asked("release") else "provisioning"
        found: dict[str, Any] = docs.status(docs.job(job="drill-x", state=state))
        return found

    daemon.answers.update(
        drill_plan=PLAN, submit={"job": "drill-x"}, status=status, drilled={}, release={"jobs": []}
    )
    watch(monkeypatch, lambda: SHOWN)
    for key in ("public_key", "private_key"):
        (home / f"compshare.{key}").touch(0o600)
        (home / f"compshare.{key}").write_text("x")
    return daemon


def watch(monkeypatch: pytest.MonkeyPatch, shown: Callable[[], dict[str, Any]]) -> None:
    """Have the instance show this, after one finding."""

    def run(*args: Any) -> dict[str, Any]:
        args[-1](Finding("timer fires", True, "seen off after 9 s"))
        return {"timer_late_ms": 812, "findings": [], **shown()}

    monkeypatch.setattr(costguard.daemon.drills, "run_drill", run)
    monkeypatch.setattr(cli_drill, "LOOK_S", 0.0)
    monkeypatch.setattr(cli_drill, "GIVE_BACK_WITHIN_S", 0.2)
    monkeypatch.setattr(cli_drill, "RENT_WITHIN_S", 0.2)


def test_a_drill_is_priced_watched_and_given_back(
    drilling: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was proven is told to the daemon before the instance is given back."""
    assert main([*COMMAND, "--yes", "--json", "--gpu", "RTX 4090"]) == 0
    out, err = capsys.readouterr()
    assert "about ¥3.96, at most ¥5.94" in " ".join(err.split())
    assert "timer fires: ok: seen off after 9 s" in err
    assert "812 ms late" in " ".join(err.split())
    assert json.loads(out)["given_back"]
    order = [request["do"] for request in drilling.requests]
    assert order.index("submit") < order.index("drilled") < order.index("release")
    assert drilling.asked("drill_plan") == [
        {"provider": "compshare", "gpu": "RTX 4090", "image": None}
    ]


def test_nothing_is_rented_before_the_price_was_agreed_to(
    drilling: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is at the terminal here: that is no yes."""
    assert main(["--lang", "zh", *COMMAND]) == 7
    err = capsys.readouterr().err
    assert "最多 ¥5.94" in err
    assert drilling.asked("submit") == []
    assert main(["doctor", "--drill"]) == 2


def test_a_timer_that_is_not_proven_is_not_called_so(
    drilling: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the exit code says it."""
    watch(monkeypatch, lambda: {**SHOWN, "timer_is_proven": False, "is_fine": False})
    assert main([*COMMAND, "--yes"]) == 1
    assert "is NOT proven" in capsys.readouterr().err
    assert drilling.asked("release")


def test_whatever_breaks_a_drill_off_it_is_given_back(
    drilling: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C, too: the daemon is told, and goes on alone."""

    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    watch(monkeypatch, interrupted)
    assert main([*COMMAND, "--yes"]) == 130
    assert drilling.asked("release") == [{"job": "drill-x"}]
    assert drilling.asked("drilled") == []
    assert "gives it back" in capsys.readouterr().err


def test_no_capacity_ends_it_before_it_begins(
    drilling: FakeDaemon, docs: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was rented, and the waiting job is taken back."""

    def status(_: Any) -> dict[str, Any]:
        state = "released" if drilling.asked("release") else "waiting_capacity"
        row = docs.job(job="drill-x", state=state, instance=None)
        found: dict[str, Any] = docs.status(row)
        return found

    drilling.answers["status"] = status
    assert main([*COMMAND, "--yes", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "nothing could be rented" in err
    assert json.loads(out)["timer_is_proven"] is False


def test_what_is_not_seen_given_back_is_said_aloud(
    drilling: FakeDaemon, docs: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code that overrides all others."""
    drilling.answers["status"] = docs.status(docs.job(job="drill-x", state="pausing"))
    assert main([*COMMAND, "--yes"]) == 9
    assert "it may still cost money" in " ".join(capsys.readouterr().err.split())


def test_where_there_is_nothing_to_prove_no_daemon_is_started(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AutoDL has no timer; and without its token that is said first."""
    command = ["doctor", "--provider", "autodl", "--drill", "--yes"]
    assert main(command) == 7
    assert "autodl.token" in capsys.readouterr().err
    (home / "autodl.token").touch(0o600)
    (home / "autodl.token").write_text("x")
    assert main(command) == 7
    assert "no stop timer of its own" in capsys.readouterr().err
    assert not (home / "daemon.pid").exists()
