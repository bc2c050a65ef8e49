from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import costguard
from costguard.cli.main import main

if TYPE_CHECKING:
    from types import SimpleNamespace

ROOT = Path(costguard.__file__).parent.parent
JOB = """
[job]
name = "kefu"
budget_yuan = 80
[instance]
provider = "local"
[training]
engine = "command"
command = ["python3", "x.py"]
"""
ENFORCERS = ["daemon", "platform timer (read back)"]


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job file that is in order."""
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


@pytest.fixture
def answering(daemon: Any, docs: SimpleNamespace) -> Any:
    """A daemon that takes the job and has finished it by the first look."""
    plan = {
        "job": "kefu",
        "price_yuan_per_hour": "15.00",
        "worst_case_yuan": "80.00",
        "enforcers": ENFORCERS,
        "lines": ["the first lease is 15 minutes"],
    }
    daemon.answers |= {
        "submit": plan,
        "quote": plan,
        "status": docs.status(docs.ended()),
        "events": {"events": [], "last": 0},
        "explain": docs.explain(),
        "report": docs.report(),
    }
    return daemon


def test_run_submits_follows_and_concludes(
    answering: Any, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    """The bound goes to stderr before, the story, verdict, evidence and report to stdout."""
    assert main(["run", str(job_file)]) == 0
    out, err = capsys.readouterr()
    assert "job kefu: cap ¥80.00, worst case ¥80.00" in err
    assert "stopped by: daemon; platform timer (read back)" in err
    assert "the first lease is 15 minutes" in err
    assert "quiet for 300 s in the training phase" in out
    assert "the meter has stopped: confirmed" in out
    (submitted,) = answering.asked("submit")
    assert json.loads(submitted["spec"])["cap_micros"] == 80_000_000
    assert len(submitted["key"]) == 36


def test_runs_exit_code_is_the_jobs(answering: Any, docs: SimpleNamespace, job_file: Path) -> None:
    """A paused job is not a finished one."""
    answering.answers["status"] = docs.status(docs.ended("paused", "stalled"))
    assert main(["run", str(job_file)]) == 4


def test_a_dry_run_rents_nothing(
    answering: Any, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    """Price, cap, worst case and enforcers are shown; no job is submitted."""
    assert main(["run", str(job_file), "--dry-run", "--budget", "40"]) == 0
    err = capsys.readouterr().err
    assert "cap ¥40.00" in err
    assert "price ¥15.00 an hour" in err
    assert "nothing was rented" in err
    assert answering.asked("submit") == []
    assert answering.asked("stop") == []


def test_submit_hands_over_and_returns(
    answering: Any, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    """It does not follow, and says where to look."""
    assert main(["submit", str(job_file), "--best-effort"]) == 0
    assert answering.asked("status") == []
    assert "costguard status kefu" in capsys.readouterr().err
    assert json.loads(answering.asked("submit")[0]["spec"])["best_effort"] is True


def test_submit_with_json_is_one_document(
    answering: Any, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    """What the daemon promised, for a script."""
    assert main(["submit", str(job_file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["enforcers"]) == ("costguard.submit/1", ENFORCERS)


def test_run_with_json_ends_with_the_status(
    answering: Any, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    """The story goes to stderr then, and stdout is the document alone."""
    assert main(["run", str(job_file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["jobs"][0]["state"] == "finished"
    assert "finished" in err


def test_a_refusal_by_the_daemon_is_exit_7(
    answering: Any, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    """Refused before renting, with the daemon's own words."""
    answering.answers["submit"] = {
        "error": {"code": "budget_too_small", "what": "too small", "where": "", "exit_code": 7}
    }
    assert main(["run", str(job_file)]) == 7
    assert "costguard: too small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "options", "code"),
    [
        ("[job]", "[job", [], "bad_job_file"),
        ("80", "-5", [], "bad_budget"),
        ("80", '"abc"', [], "bad_budget"),
        ("", "", ["--budget", "-5"], "bad_budget"),
        ("", "", ["--budget", "abc"], "bad_budget"),
        ('"local"', '"nowhere"', [], "unknown_provider"),
        ("command =", 'upload = ["none"]\ncommand =', [], "missing_upload"),
        (
            'engine = "command"\ncommand = ["python3", "x.py"]',
            'model_name_or_path = "a/b"\ndataset = "none.jsonl"',
            [],
            "missing_dataset",
        ),
    ],
)
def test_a_refused_job_is_exit_7_one_message_and_no_daemon(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    job_file: Path,
    old: str,
    new: str,
    options: list[str],
    code: str,
) -> None:
    """Judged before a daemon is even started: nothing can have been rented."""
    job_file.write_text(JOB.replace(old, new, 1))
    assert main(["run", str(job_file), "--json", *options]) == 7
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert not (home / "daemon.log").exists()


def test_an_unusable_home_is_said_before_anything_else(
    capsys: pytest.CaptureFixture[str],
    job_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A home that cannot be written cannot hold a ledger."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COSTGUARD_HOME", str(tmp_path / "file" / "home"))
    assert main(["run", str(job_file)]) == 7
    assert "COSTGUARD_HOME" in capsys.readouterr().err


def test_on_a_terminal_it_asks_first(
    answering: Any,
    capsys: pytest.CaptureFixture[str],
    job_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sum and the platform are named; anything but yes rents nothing; --yes does not ask."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    for answer, code, submitted in (("\n", 7, 0), ("n\n", 7, 0), ("y\n", 0, 1)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert main(["submit", str(job_file)]) == code
        assert len(answering.asked("submit")) == submitted
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert main(["submit", str(job_file), "--yes"]) == 0


@pytest.mark.parametrize("overdue", [False, True])
def test_ctrl_c_detaches(
    answering: Any, docs: SimpleNamespace, job_file: Path, *, overdue: bool
) -> None:
    """130 with how to look, pause and stop; 9 while a stop is overdue. The job is not touched."""
    alarm = {"id": 1, "at": "", "job": "kefu", "kind": "stop_not_confirmed", "text": "still on",
             "data": {"loud": True}}  # fmt: skip
    answering.answers["status"] = docs.status(docs.job(state="pausing" if overdue else "training"))
    answering.answers["events"] = {"events": [alarm] if overdue else [], "last": 1}
    process = subprocess.Popen(
        [sys.executable, "-m", "costguard", "run", str(job_file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=10)
    assert process.returncode == (9 if overdue else 130)
    for words in ("costguard status kefu", "costguard pause kefu", "costguard daemon stop"):
        assert words in err
    assert ("NOT confirmed" in err) == overdue
    assert {request["do"] for request in answering.requests} <= {
        "ping", "submit", "status", "events"
    }  # fmt: skip
