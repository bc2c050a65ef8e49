"""Which samples each optimizer step sees: a pure function of the seed and the step number.

So a resume needs no cursor of its own, and a change of the micro-batch changes nothing here.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache


def shuffled(count: int, seed: int, purpose: str) -> tuple[int, ...]:
    """0 … count-1 in an order that depends on nothing but the arguments.

    A text seeds Python's generator through SHA-512, so the order is the same on any machine.
    """
    order = list(range(count))
    random.Random(f"{seed}/{purpose}/{count}").shuffle(order)  # noqa: S311 - no secret hangs on it
    return tuple(order)


def choose(count: int, max_samples: int | None, seed: int) -> tuple[int, ...]:
    """The rows to train on: the first `max_samples` of one fixed shuffle, or all."""
    order = shuffled(count, seed, "choose")
    return order if max_samples is None else order[:max_samples]


def steps_per_epoch(count: int, samples_per_step: int) -> int:
    """Optimizer steps that see each of `count` samples once; the last step may be smaller."""
    return math.ceil(count / samples_per_step)


def step_samples(step: int, count: int, samples_per_step: int, seed: int) -> tuple[int, ...]:
    """The samples of optimizer step `step`, counted from 0."""
    epoch, place = divmod(step, steps_per_epoch(count, samples_per_step))
    start = place * samples_per_step
    return _epoch_order(count, seed, epoch)[start : start + samples_per_step]


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    return shuffled(count, seed, f"epoch {epoch}")
