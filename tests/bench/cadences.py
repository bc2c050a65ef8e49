"""Made-up trainings with what makes real ones hard to foretell; every one from its seed alone.

Samples of different length, a slow start, evaluations, saves, a card that grows hot, a data loader
that sticks now and then. The shares are drawn wide on purpose: they are no measurement.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from costguard.core.snapshot import Step
from costguard.core.training import STEPS_KEPT


@dataclass(frozen=True)
class Training:
    """One training as it went: when each step was done, and which were logged."""

    done_ms: tuple[int, ...]  # of step 1, 2, ... since its first moment
    log_every: int
    after_ms: int  # from the last step to the end: the last save

    @property
    def total(self) -> int:
        """How many steps it has."""
        return len(self.done_ms)

    @property
    def end_ms(self) -> int:
        """When it was over."""
        return self.done_ms[-1] + self.after_ms

    def logged(self, step: int) -> tuple[Step, ...]:
        """What had been logged when this step was done, as the daemon keeps it."""
        steps = range(self.log_every, step + 1, self.log_every)
        kept = [Step(each, self.done_ms[each - 1], 1.0) for each in steps]
        return tuple(kept[-STEPS_KEPT:])

    def first(self) -> Step:
        """The first log line."""
        return Step(self.log_every, self.done_ms[self.log_every - 1], 1.0)


def training(seed: int) -> Training:
    """The training of this seed."""
    draw = random.Random(seed)
    total = draw.randint(150, 3_000)
    base_ms = draw.uniform(800, 30_000)
    noise = draw.uniform(0.02, 0.35)
    slow_steps, slow_by = draw.randint(1, 30), draw.uniform(0, 1.5)
    hot_after_ms, hot_by = draw.uniform(5, 60) * 60_000, draw.choice([0, draw.uniform(0, 0.2)])
    evaluate_every, evaluate_ms = draw.randint(50, 800), draw.uniform(10, 400) * 1_000
    save_every, save_ms = draw.randint(50, 500), draw.uniform(1, 40) * 1_000
    sticks = draw.choice([0, 0, 0.001])
    at_ms, done = 0.0, []
    for step in range(1, total + 1):
        heat = hot_by * min(max(at_ms / hot_after_ms - 0.5, 0), 1)
        start = slow_by * max(1 - step / slow_steps, 0)
        at_ms += base_ms * draw.lognormvariate(0, noise) * (1 + heat) * (1 + start)
        if draw.random() < sticks:
            at_ms += draw.uniform(10, 90) * 1_000
        done.append(round(at_ms))
        if step % evaluate_every == 0:
            at_ms += evaluate_ms
        if step % save_every == 0:
            at_ms += save_ms
    return Training(tuple(done), draw.choice([1, 1, 5, 10]), round(save_ms))
