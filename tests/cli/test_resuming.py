from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import pytest

from costguard import jobfile
from costguard.cli.main import main
from costguard.core.spec import InstanceWish, JobSpec, Run, spec_from_json

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

WISH = InstanceWish(provider="local")


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


@pytest.mark.parametrize("engine", ["trainer", "llamafactory"])
def test_other_data_may_begin_with_what_was_learnt(
    answering: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """The weights of the newest whole checkpoint, wherever its stage lies on the instance."""
    at = "../stage-1/output/checkpoint-40"
    answering.answers["source"]["checkpoint"] = at
    run = Run(argv=("{python}", "-m", "trainer", "train"), engine=engine)
    given = JobSpec("kefu", "p", 1, best_effort=False, instance=WISH, runs=(run, run))
    monkeypatch.setattr(jobfile, "load_job", lambda *_, **__: given)
    data = str(tmp_path / "day2.jsonl")
    words = ["resume", "kefu", "--data", data, "--from", "checkpoint", "--no-follow"]
    assert main(words) == 0
    first, second = spec_from_json(answering.asked("resume")[0]["spec"]).runs
    if engine == "trainer":
        assert first.argv[-2:] == ("--init_adapter", at)
    else:
        assert first.config == {"adapter_name_or_path": at}
    assert second == run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "middle"], "base or checkpoint"),
        (["--from", "checkpoint", "--data", "{day2}"], "no checkpoint that other data"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    answering: Any,
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One message, exit 2, nothing sent."""
    day2 = str(tmp_path / "day2.jsonl")
    assert main(["resume", "kefu", *(word.format(day2=day2) for word in words)]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
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


@pytest.fixture
def anew(answering: Any) -> Any:
    """A daemon that says what a new instance would be."""
    quote = answering.answers["resume"] | {"from": "checkpoint-40", "old_disk": "i-old"}
    answering.answers["resume"] = lambda args: (
        quote if args.get("quote") else quote | {"disk": "kefu.disk-1"}
    )
    return answering


def test_a_new_instance_is_priced_and_asked_about_first(
    anew: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal or a yes nothing is rented."""
    assert main(["resume", "kefu", "--new-instance"]) == 7
    told = capsys.readouterr().err
    assert "price ¥15.00 an hour" in told
    assert "goes on from checkpoint-40" in told
    assert "the disk of i-old is kept, and costs" in told
    assert anew.asked("resume") == [{"job": "kefu", "new_instance": True, "quote": True}]


@pytest.mark.parametrize(("answer", "code", "asked"), [("y\n", 0, 2), ("\n", 7, 1)])
def test_only_a_yes_rents_it(
    answer: str, code: int, asked: int, anew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As everywhere."""
    stdin = io.StringIO(answer)
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["resume", "kefu", "--new-instance", "--no-follow"]) == code
    assert len(anew.asked("resume")) == asked


def test_with_yes_it_says_what_the_old_disk_is_called(
    anew: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that it begins anew, where nothing is at home."""
    known = anew.answers["resume"]
    anew.answers["resume"] = lambda args: known(args) | {"from": None}
    assert main(["resume", "kefu", "--new-instance", "--yes", "--no-follow"]) == 0
    told = capsys.readouterr().err
    assert "it begins anew" in told
    assert "costguard release kefu.disk-1" in told
    assert anew.asked("resume")[-1] == {"job": "kefu", "new_instance": True}
