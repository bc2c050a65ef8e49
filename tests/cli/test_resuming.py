from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.cli.main import main
from costguard.core.spec import spec_from_json

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

JOB = """
[job]
name = "kefu"
budget_yuan = 80
[instance]
provider = "local"
[training]
engine = "command"
command = ["python3", "x.py"]
dataset = "day1.jsonl"
"""


@pytest.fixture
def answering(daemon: Any, docs: SimpleNamespace, tmp_path: Path) -> Any:
    """A daemon with a paused job whose file and data are here."""
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "day1.jsonl").write_text("a\nb\nc\n")
    (tmp_path / "day2.jsonl").write_text("a\nc\nd\ne\n")
    plan = {"job": "kefu", "price_yuan_per_hour": "15.00", "worst_case_yuan": "80.00"}
    daemon.answers |= {
        "resume": {**plan, "enforcers": ["daemon"], "lines": []},
        "source": {
            "job": "kefu",
            "file": str(tmp_path / "job.toml"),
            "attempt": 0,
            "data": [str(tmp_path / "day1.jsonl")],
        },
        "status": docs.status(docs.ended()),
        "events": {"events": [], "last": 0},
        "explain": docs.explain(),
        "report": docs.report(),
    }
    return daemon


def test_a_plain_resume_sends_the_name_and_follows(answering: Any) -> None:
    """Nothing is read again: the job goes on as it was."""
    assert main(["resume", "kefu"]) == 0
    assert answering.asked("resume") == [{"job": "kefu"}]
    assert answering.asked("status")


def test_no_follow_hands_over_and_returns(
    answering: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the bound, and where to look."""
    assert main(["resume", "kefu", "--no-follow"]) == 0
    said = capsys.readouterr().err
    assert "worst case ¥80.00" in said
    assert "costguard status kefu" in said
    assert answering.asked("status") == []


def test_other_data_starts_from_the_base_in_a_folder_of_its_own(
    answering: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what is different."""
    assert main(["resume", "kefu", "--data", str(tmp_path / "day2.jsonl"), "--no-follow"]) == 0
    spec = spec_from_json(answering.asked("resume")[0]["spec"])
    assert spec.runs[0].output_dir == "output-2"
    assert str(tmp_path / "day2.jsonl") in {upload.local for upload in spec.runs[0].uploads}
    assert "2 lines are new" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "middle"], "base or checkpoint"),
        (["--from", "checkpoint", "--data", "day2.jsonl"], "cannot go on from a checkpoint"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    answering: Any, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, exit 2, nothing sent."""
    assert main(["resume", "kefu", *words]) == 2
    assert said in capsys.readouterr().err
    assert answering.asked("resume") == []


def test_a_job_file_that_is_gone_is_said(
    answering: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it was, and that a plain resume needs none."""
    (tmp_path / "job.toml").unlink()
    assert main(["resume", "kefu", "--from", "base"]) != 0
    said = capsys.readouterr().err
    assert str(tmp_path / "job.toml") in said.replace("\n", "")
    assert "without --data" in said
