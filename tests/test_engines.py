from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from costguard.core.spec import Schedule
from costguard.engines import trainer_schedule
from costguard.jobfile import load_job
from costguard.preflight import DataReport, RunFacts

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
[job]
name = "kefu"
budget_yuan = 80
[instance]
provider = "local"
[training]
model_name_or_path = "Qwen/Qwen2.5-7B-Instruct"
dataset = "train.jsonl"
"""


def judging(folder: Path, more: str) -> Schedule | None:
    """What a job of thirty samples plans beside its steps, with these keys more."""
    rows = [
        json.dumps({"instruction": f"问题{n}", "input": "", "output": "回答"}) for n in range(30)
    ]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "job.toml").write_text(JOB + more, encoding="utf-8")
    return load_job(folder / "job.toml").runs[0].schedule


@pytest.mark.parametrize(
    ("more", "schedule"),
    [
        ("", Schedule(save_every=500)),
        ("eval_steps = 5\nsave_steps = 7", Schedule(save_every=7)),  # nothing to judge by
        ("eval_steps = 5\nval_size = 0.2", Schedule(5, None, 1, 500, 6, 8)),
        ("val_size = 4\nnum_train_epochs = 2.5", Schedule(None, 2_500, 1, 500, 4, 8)),
        ("val_size = 0.01\nmax_steps = 50", Schedule(4, None, 1, 500, 1, 8)),
    ],
)
def test_when_a_job_judges_and_saves_is_read_off_its_file(
    tmp_path: Path, more: str, schedule: Schedule
) -> None:
    """The trainer's own defaults are in it: at each epoch's end, a save every 500 steps."""
    assert judging(tmp_path, more) == schedule


def test_what_hangs_on_samples_that_were_not_counted_is_not_planned() -> None:
    """How many are held out is left open; where even the epochs end, the whole schedule."""
    flags = RunFacts(8, 1, Fraction(3), None, None, Fraction(1, 10), 1_024, False, 0, 500)
    assert trainer_schedule(flags, None) == Schedule(None, 3_000, 1, 500, None, 8)
    assert trainer_schedule(replace(flags, max_steps=9), None) is None
    report = DataReport(100, 1_000, 20, "characters", ())
    few = replace(flags, max_steps=9, max_samples=20)
    assert trainer_schedule(few, report) == Schedule(3, None, 1, 500, 10, 8)


def test_a_training_writes_its_log_in_one_language(tmp_path: Path) -> None:
    """What the rented image's own settings are does not matter: `logs` tells it in the reader's."""
    judging(tmp_path, "")
    assert load_job(tmp_path / "job.toml").runs[0].env == {"LANGUAGE": "en"}
