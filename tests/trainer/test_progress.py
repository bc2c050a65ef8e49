from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.progress import Pace, Status, TrainerLog, clock_text, say, strict_json


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strict_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse_constant) for line in lines]


def test_nan_and_infinity_become_null() -> None:
    """JSON has neither; a reader in another language would stumble over them."""
    document = {"loss": float("nan"), "deep": [{"x": float("inf")}], "ok": 1.5}
    assert json.loads(strict_json(document), parse_constant=refuse_constant) == {
        "loss": None,
        "deep": [{"x": None}],
        "ok": 1.5,
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (90_000, "25:00:00")],
)
def test_times_are_written_as_llamafactory_does(seconds: float, text: str) -> None:
    """H:mm:ss, with the hours running on."""
    assert clock_text(seconds) == text


def test_a_log_knows_how_long_it_has_been_silent(tmp_path: Path) -> None:
    """Since its last line, or since it was opened."""
    now_s = [10.0]
    log = TrainerLog(tmp_path, lambda: now_s[0])
    now_s[0] = 13.0
    assert log.silent_s() == 3.0
    log.append({"current_steps": 1})
    now_s[0] = 13.5
    assert log.silent_s() == 0.5


def test_a_line_torn_by_a_power_cut_is_cut_off(tmp_path: Path) -> None:
    """A log that goes on after a cut holds whole lines only."""
    (tmp_path / "trainer_log.jsonl").write_bytes(b'{"current_steps": 1}\n{"current_st')
    TrainerLog(tmp_path).append({"current_steps": 2})
    assert strict_lines(tmp_path / "trainer_log.jsonl") == [
        {"current_steps": 1},
        {"current_steps": 2},
    ]


def test_a_line_the_disk_takes_half_of_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up in the middle of a line leaves no half line behind."""
    log = TrainerLog(tmp_path)
    log.append({"current_steps": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    log.append({"current_steps": 2})
    monkeypatch.undo()
    log.append({"current_steps": 3})
    steps = [line["current_steps"] for line in strict_lines(log.path)]
    assert steps == [1, 3]


def test_a_line_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that looks at any moment sees whole lines."""
    written: list[bytes] = []
    write = os.write

    def record(descriptor: int, data: bytes) -> int:
        written.append(bytes(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", record)
    TrainerLog(tmp_path).append({"text": "字" * 5000})
    assert len(written) == 1
    assert written[0].endswith(b"\n")


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log and status are lost, said once, and the run goes on."""

    def full(*_arguments: object, **_keywords: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    log, status = TrainerLog(tmp_path), Status(tmp_path)
    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(Path, "write_text", full)
    for step in range(3):
        log.append({"current_steps": step})
        status.update(step=step)
    assert capsys.readouterr().err.count("No space left") == 2


def test_status_is_replaced_and_never_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment before each replacement the old file is still whole."""
    status = Status(tmp_path)
    status.update(phase="load")
    seen: list[str] = []
    replace = Path.replace

    def look_first(self: Path, target: Path) -> Path:
        seen.append(json.loads(status.path.read_text(encoding="utf-8"))["phase"])
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look_first)
    status.update(phase="train", loss=float("nan"))
    now = json.loads(status.path.read_text(encoding="utf-8"))
    assert seen == ["load"]
    assert (now["phase"], now["loss"], now["pid"]) == ("train", None, os.getpid())
    assert now["updated_at"].endswith("Z")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_misspelt_status_field_is_an_error(tmp_path: Path) -> None:
    """Readers rely on the names; a new one must be added on purpose."""
    with pytest.raises(KeyError, match="stpe"):
        Status(tmp_path).update(stpe=1)


def test_pace_counts_this_session_only() -> None:
    """After a resume at step 900 of 1,000, two steps of 10 s leave 98 x 10 s, not 98 x 0.02 s."""
    now = [100.0]
    pace = Pace(clock=lambda: now[0])
    assert pace.eta_s(100) is None
    assert pace.tokens_per_s() is None
    for _step in range(2):
        now[0] += 10.0
        pace.step_done(tokens=500)
    assert pace.eta_s(98) == pytest.approx(980.0)
    assert pace.tokens_per_s() == pytest.approx(50.0)
    assert pace.elapsed_s() == pytest.approx(20.0)


def test_eta_follows_the_recent_steps() -> None:
    """A slow start is forgotten after 20 steps."""
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    for duration_s in [100.0, *[1.0] * 20]:
        now[0] += duration_s
        pace.step_done(tokens=1)
    assert pace.eta_s(10) == pytest.approx(10.0)


class _ClosedTerminal(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_closed_terminal_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SSH session that started a run may be gone: printing then does nothing."""
    closed = _ClosedTerminal()
    monkeypatch.setattr(sys, "stdout", closed)
    say("nobody reads this")
    assert sys.stdout is not closed
    sys.stdout.close()
