"""How fast a training gets on, from the lines that it logs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costguard.core.snapshot import Step

CADENCE_STEPS = 50


@dataclass(frozen=True, slots=True)
class Cadence:
    """The median time of one step and between two log lines; None before it can be known."""

    step_ms: int | None
    interval_ms: int | None


def cadence(steps: tuple[Step, ...], since_ms: int) -> Cadence:
    """How fast it trains and how often it logs, over the latest 50 lines.

    Before the second line, the time that the first one took is taken for the interval: it holds
    the warm-up too, and errs on the patient side.
    """
    recent = steps[-CADENCE_STEPS:]
    pairs = [(a, b) for a, b in pairwise(recent) if b.step > a.step and b.at_ms >= a.at_ms]
    if pairs:
        per_step = [
            (later.at_ms - earlier.at_ms) / (later.step - earlier.step) for earlier, later in pairs
        ]
        intervals = [later.at_ms - earlier.at_ms for earlier, later in pairs]
        return Cadence(int(middle(per_step)), int(middle(intervals)))
    if recent and recent[-1].at_ms > since_ms:
        return Cadence(None, recent[-1].at_ms - since_ms)
    return Cadence(None, None)


def middle(values: list[float] | list[int]) -> float:
    """The median. Of our own, because `statistics` costs the agent two mebibytes."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_step_ms(steps: tuple[Step, ...]) -> int | None:
    """The median time between two log lines, over the latest 50; None before the second."""
    recent = steps[-CADENCE_STEPS:]
    gaps = [
        (later.at_ms - earlier.at_ms)
        for earlier, later in pairwise(recent)
        if later.step > earlier.step
    ]
    return int(middle(gaps)) if gaps else None
