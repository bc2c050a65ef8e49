"""What a job's stages have to do, read from its data set and its flags on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.core.forecast import Work
from costguard.engines import JUDGING_FLAGS, MODEL_ELSEWHERE
from costguard.preflight import data_report, run_facts

if TYPE_CHECKING:
    from costguard.core.spec import JobSpec
    from costguard.preflight import DataReport, RunFacts

TRAIN = ("-m", "trainer", "train")


@dataclass(frozen=True, slots=True)
class Reading:
    """The data set, what the trainer makes of the first stage's flags, and each stage's work."""

    data: DataReport
    facts: RunFacts
    works: tuple[Work, ...]


def read_works(spec: JobSpec) -> Reading | None:
    """The work of each stage; None for a command of one's own, of which nobody knows."""
    run = spec.runs[0]
    argv = list(run.argv)
    if tuple(argv[1:4]) != TRAIN:
        return None
    there = argv[argv.index("--dataset") + 1]
    here = next(each.local for each in run.uploads if each.remote == there)
    model = argv.index("--model_name_or_path") + 1
    argv[argv.index("--dataset") + 1] = here
    argv[model] = next((u.local for u in run.uploads if u.remote == argv[model]), MODEL_ELSEWHERE)
    data = data_report(Path(here), [flag for flag in argv if flag.startswith(JUDGING_FLAGS)])
    facts = run_facts(argv[4:])
    works = tuple(_work(data, facts, stage.max_samples) for stage in spec.stages)
    return Reading(data, facts, works)


def _work(data: DataReport, facts: RunFacts, max_samples: int | None) -> Work:
    """One stage: what is held out is not trained on; tokens go by the share of the samples."""
    held = facts.val_size * data.samples if facts.val_size < 1 else facts.val_size
    samples = max(data.samples - round(held), 1)
    if max_samples is not None:
        samples = min(samples, max_samples)
    tokens = data.tokens * samples // max(data.samples, 1)
    epochs = facts.epochs
    if facts.max_steps is not None:
        epochs = Fraction(facts.max_steps * facts.samples_per_step, samples)
    return Work(samples, tokens, facts.samples_per_step, epochs)
