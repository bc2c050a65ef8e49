from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.progress import ProgressWatcher, parse_progress

if TYPE_CHECKING:
    from pathlib import Path


def log_line(**fields: Any) -> str:
    """A line as LLaMA-Factory writes it."""
    usual = {"current_steps": 3, "total_steps": 9, "loss": 1.5, "elapsed_time": "0:01:02"}
    return json.dumps({**usual, **fields}) + "\n"


def test_llamafactorys_line_is_understood() -> None:
    """`current_steps` is the step; times stay the strings they were."""
    fields = parse_progress(log_line(remaining_time="1 day, 2:03:04", throughput="12.5").encode())
    assert fields is not None
    assert (fields["step"], fields["total_steps"], fields["loss"]) == (3, 9, 1.5)
    assert fields["remaining_time"] == "1 day, 2:03:04"
    assert fields["throughput"] == "12.5"
    assert fields["eval_loss"] is None
    assert fields["nonfinite"] == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_diverged_loss_is_null_and_named(value: str) -> None:
    """Null for JSON's sake, yet told apart from a line without a loss."""
    line = log_line().replace("1.5", value).encode()
    fields = parse_progress(line)
    assert fields is not None
    assert fields["loss"] is None
    assert fields["nonfinite"] == ["loss"]


def test_a_last_line_without_a_loss_is_progress() -> None:
    """As the trainer's closing line is."""
    line = b'{"current_steps": 9, "total_steps": 9, "epoch": 3.0}'
    fields = parse_progress(line)
    assert fields is not None
    assert fields["loss"] is None
    assert fields["nonfinite"] == []


@pytest.mark.parametrize("value", ['"nan"', '"inf"', '"-Infinity"'])
def test_a_diverged_loss_may_be_written_as_text(value: str) -> None:
    """Some trainers print every figure as a string."""
    fields = parse_progress(log_line().replace("1.5", value).encode())
    assert fields is not None
    assert (fields["loss"], fields["nonfinite"]) == (None, ["loss"])


def test_figures_written_as_text_or_with_a_point_are_understood() -> None:
    """A loss in quotes, and a step as a float."""
    line = '{"current_steps": 3.0, "total_steps": 9.0, "loss": "1.25", "lr": "odd"}'
    fields = parse_progress(line.encode())
    assert fields is not None
    assert (fields["step"], fields["total_steps"], fields["loss"]) == (3, 9, 1.25)
    assert fields["lr"] == "odd"


@pytest.mark.parametrize(
    "line", [b"", b"rubbish", b"[1]", b'"x"', b'{"loss": 1}', b'{"current_steps": "3"}', b"\xff\n"]
)
def test_what_is_no_progress_is_left_out(line: bytes) -> None:
    """A torn or foreign line says nothing, and stops nothing."""
    assert parse_progress(line) is None


def test_a_line_cannot_pose_as_a_record() -> None:
    """Our own keys are not taken from the trainer."""
    fields = parse_progress(log_line(seq=99, t="exit", at_ms=1).encode())
    assert fields is not None
    assert not {"seq", "t", "at_ms"} & fields.keys()


def test_the_first_progress_means_train(tmp_path: Path) -> None:
    """Where nothing else tells the phase."""
    watcher = ProgressWatcher(tmp_path, 0, None)
    (tmp_path / "trainer_log.jsonl").write_text(log_line() + log_line(current_steps=4))
    kinds = [(kind, fields.get("phase"), fields.get("step")) for kind, fields in watcher.poll()]
    assert kinds == [("phase", "train", None), ("progress", None, 3), ("progress", None, 4)]


def test_the_trainers_own_phase_wins(tmp_path: Path) -> None:
    """`status.json` is told when it changes, with its plain fields, and outlasts progress lines."""
    watcher = ProgressWatcher(tmp_path, 0, None)
    status = tmp_path / "status.json"
    status.write_text(json.dumps({"phase": "download", "done_bytes": 5, "nested": {}}))
    assert watcher.poll() == [("phase", {"phase": "download", "status": {"done_bytes": 5}})]
    (tmp_path / "trainer_log.jsonl").write_text(log_line())
    assert [kind for kind, _ in watcher.poll()] == ["progress"]
    status.write_text('{"phase": "eval')
    assert watcher.poll() == []
    status.write_text('{"phase": "evaluate"}')
    assert [fields["phase"] for _, fields in watcher.poll()] == ["evaluate"]


def test_an_earlier_runs_files_are_not_this_runs(tmp_path: Path) -> None:
    """A status and a log that lay there before say nothing of now."""
    (tmp_path / "status.json").write_text('{"phase": "done"}')
    log = tmp_path / "trainer_log.jsonl"
    log.write_text(log_line())
    watcher = ProgressWatcher(tmp_path, log.stat().st_size, None)
    assert watcher.poll() == []
    with log.open("a") as file:
        file.write(log_line(current_steps=1))
    assert [fields.get("step") for _, fields in watcher.poll()] == [None, 1]


def test_each_line_knows_where_it_ends(tmp_path: Path) -> None:
    """So that an agent that was restarted between two lines repeats neither."""
    lines = [log_line(current_steps=number) for number in range(3)]
    (tmp_path / "trainer_log.jsonl").write_text("".join(lines))
    first = ProgressWatcher(tmp_path, 0, "train").poll()
    resumed = ProgressWatcher(tmp_path, first[0][1]["offset"], "train").poll()
    assert [fields["step"] for _, fields in resumed] == [1, 2]


def told(status: Path, at_s: int, **fields: Any) -> None:
    """Writes a status as if at that time of the day."""
    status.write_text(json.dumps({"phase": "download", **fields}))
    os.utime(status, (at_s, at_s))


def test_a_phase_that_gets_on_is_told_again(tmp_path: Path) -> None:
    """Each ten seconds at most, and only for news: a clock that ticks in the status is none."""
    watcher = ProgressWatcher(tmp_path, 0, None)
    status = tmp_path / "status.json"
    told(status, 1000, done_bytes=1, updated_at="a")
    assert len(watcher.poll()) == 1
    told(status, 1005, done_bytes=2, updated_at="b")
    assert watcher.poll() == []
    told(status, 1012, done_bytes=3, updated_at="c")
    ((kind, fields),) = watcher.poll()
    assert (kind, fields["phase"], fields["status"]["done_bytes"]) == ("phase", "download", 3)
    told(status, 1040, done_bytes=3, updated_at="d")
    assert watcher.poll() == []


def test_a_status_that_is_rewritten_in_training_is_no_pulse(tmp_path: Path) -> None:
    """There the progress lines tell."""
    watcher = ProgressWatcher(tmp_path, 0, "load")
    status = tmp_path / "status.json"
    told(status, 1000, phase="train", step=1)
    assert len(watcher.poll()) == 1
    told(status, 1100, phase="train", step=2)
    assert watcher.poll() == []


def test_a_phase_that_nobody_told_is_marked_so(tmp_path: Path) -> None:
    """The guards then know that an evaluation would not be told either."""
    (tmp_path / "trainer_log.jsonl").write_text(log_line())
    first = ProgressWatcher(tmp_path, 0, None).poll()[0]
    assert first == ("phase", {"phase": "train", "inferred": True})
    (tmp_path / "trainer_log.jsonl").write_text(log_line(phase="train"))
    assert ProgressWatcher(tmp_path, 0, None).poll()[0] == ("phase", {"phase": "train"})


def test_an_older_llamafactory_is_understood() -> None:
    """It wrote every field, null or not, and `learning_rate`: an evaluation is no lost loss."""
    line = (
        b'{"current_steps": 50, "total_steps": 60, "loss": null, "eval_loss": 1.25, "epoch": 2.5}'
    )
    fields = parse_progress(line)
    assert fields is not None
    assert (fields["loss"], fields["eval_loss"], fields["nonfinite"]) == (None, 1.25, [])
    step = parse_progress(b'{"current_steps": 1, "loss": 2.0, "learning_rate": 0.0002}')
    assert step is not None
    assert step["lr"] == 0.0002
