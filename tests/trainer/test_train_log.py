"""What a run writes into `trainer_log.jsonl`, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.trainer.test_train import logged, losses
from trainer.exits import FINISHED
from trainer.train import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.trainer.test_train import MakeConfig

pytestmark = pytest.mark.torch


def test_the_log_has_llamafactorys_fields_and_ours(make_config: MakeConfig, tmp_path: Path) -> None:
    """Each logged step is one line with every field, and the numbers are right."""
    assert run(make_config(logging_steps=3, warmup_steps=2)) == FINISHED
    lines = logged(tmp_path / "output")
    assert [line["current_steps"] for line in lines] == [3, 6, 8]
    assert all(
        list(line)
        == [
            "current_steps", "total_steps", "loss", "lr", "epoch", "percentage", "elapsed_time",
            "remaining_time", "throughput", "phase", "session_tokens_per_s", "peak_memory_gib",
        ]
        for line in lines
    )  # fmt: skip
    assert [(line["epoch"], line["percentage"]) for line in lines] == [
        (0.5, 37.5),
        (1.0, 75.0),
        (1.3333, 100.0),
    ]
    assert lines[0]["lr"] == 1e-2
    assert lines[-1]["remaining_time"] == "0:00:00"
    assert all(line["session_tokens_per_s"] > 0 for line in lines)
    assert all(0.1 < line["peak_memory_gib"] < 64 for line in lines)


def test_a_step_long_after_the_last_line_has_a_line_of_its_own(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With its own loss, and in the log alone; the intervals' means stay what they are."""
    run(make_config(output_dir=tmp_path / "each"))
    run(make_config(output_dir=tmp_path / "fours", logging_steps=4))
    monkeypatch.setattr("trainer.train.SILENT_AT_MOST_S", 0.0)
    capsys.readouterr()
    run(make_config(output_dir=tmp_path / "slow", logging_steps=4))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()
            if line.startswith("step ")] == ["4/8", "8/8"]  # fmt: skip
    each, fours = losses(tmp_path / "each"), losses(tmp_path / "fours")
    assert losses(tmp_path / "slow") == {**each, **fours}


def test_a_logged_loss_is_the_mean_since_the_last(make_config: MakeConfig, tmp_path: Path) -> None:
    """Logging every 4 steps tells the mean of the 4 step losses."""
    run(make_config(output_dir=tmp_path / "each"))
    run(make_config(output_dir=tmp_path / "fours", logging_steps=4))
    each, fours = losses(tmp_path / "each"), losses(tmp_path / "fours")
    assert fours[4] == pytest.approx(sum(each[step] for step in range(1, 5)) / 4)
    assert fours[8] == pytest.approx(sum(each[step] for step in range(5, 9)) / 4)
