"""What a run does beside its steps, while none of it was seen yet: judging and saving.

When it will, the job file says before the first step; how long it takes, only the run itself. Until
then these are bounds that are reasoned, not measured, and they are the wider the less is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costguard.core.spec import Schedule

# A held-out sample against one that is trained on. A step is a forward pass, one back through
# frozen weights that costs about as much, and with checkpointing a forward pass again, so that a
# pass alone is a third of it. Where steps are captured and judging is not, it is more: on an H200,
# short samples, 1.8 with the save of each best (10.9 s for 300 samples, of which 1,000 train in
# 20 s: trainer/bench/results/2026-11-25-h200.md). That one run is all that was measured.
JUDGED_SHARES = (Fraction(1, 3), Fraction(1), Fraction(2))
# Where its size is not known, of the steps between two evaluations: whoever judges for longer than
# they train is not meant here. The middle is a tenth, the share that is allowed for anything else
# unseen, and a guess.
UNKNOWN_SHARES = (Fraction(0), Fraction(1, 10), Fraction(1))
NEVER_PLANNED = (Fraction(0), Fraction(0), Fraction(1))  # nobody said whether any comes at all


class Known(Enum):
    """How much is known of the evaluations that are still to come."""

    ENOUGH = "enough"  # none comes, or one was seen and is in the pace
    SIZE = "size"  # none was seen; how many samples each reads is known
    TIMES = "times"  # none was seen; only when they come is known
    NOTHING = "nothing"  # a command of one's own: whether any comes is not known


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether one was seen, and is in the pace: from then on all of its kind are."""

    evaluation: bool
    save: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """What comes beside the steps: in steps' time, low, likely and high; and how many saves."""

    known: Known
    steps: tuple[Fraction, Fraction, Fraction]
    saves: int = 0


NONE_SEEN = Seen(evaluation=False, save=False)


def seen(schedule: Schedule | None, pauses: int, seen_from: int, done: int, total: int) -> Seen:
    """What was due between two lines that were logged, of which `seen_from` is the first.

    By the schedule and not by the pauses of the pace: a short one is no pause, and what makes one
    may have been anything. Only where nothing is planned by name are they all there is to go by.
    """
    if schedule is None:
        return Seen(evaluation=pauses > 0, save=pauses > 0)
    every = evaluates_every(schedule, total)
    return Seen(_due(every, seen_from, done), _due(schedule.save_every, seen_from, done))


def beside(schedule: Schedule | None, known: Seen, done: int, total: int) -> Beside:
    """What still comes beside the steps from `done` to `total`, of all that was not seen yet."""
    if schedule is None:
        left = Fraction(0 if known.evaluation else max(total - done, 0))
        return Beside(Known.NOTHING if left else Known.ENOUGH, _times(NEVER_PLANNED, left))
    saves = 0 if known.save else _count(schedule.save_every, done, total)
    every = evaluates_every(schedule, total)
    count = 0 if known.evaluation else _count(every, done, total) + schedule.evaluates_after
    if not count:
        return Beside(Known.ENOUGH, _times(UNKNOWN_SHARES, Fraction(0)), saves)
    if schedule.held_out is None:
        between = max(min(every or total, total), 0)
        return Beside(Known.TIMES, _times(UNKNOWN_SHARES, Fraction(count * between)), saves)
    size = Fraction(schedule.held_out, schedule.samples_per_step)
    return Beside(Known.SIZE, _times(JUDGED_SHARES, count * size), saves)


def evaluates_every(schedule: Schedule, total: int) -> int | None:
    """After how many steps each it judges; None for never, or only at the end."""
    if schedule.evaluate_parts_milli:
        return max(-(-total * 1_000 // schedule.evaluate_parts_milli), 1)
    return schedule.evaluate_every


def _count(every: int | None, done: int, total: int) -> int:
    """How many come from `done` on and before the last step."""
    return 0 if every is None or done >= total else (total - 1) // every - max(done - 1, 0) // every


def _due(every: int | None, seen_from: int, done: int) -> bool:
    """Whether one was due between the two."""
    return every is not None and max(done - 1, 0) // every > max(seen_from - 1, 0) // every


def _times(
    shares: tuple[Fraction, Fraction, Fraction], steps: Fraction
) -> tuple[Fraction, Fraction, Fraction]:
    low, likely, high = shares
    return low * steps, likely * steps, high * steps
