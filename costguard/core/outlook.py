"""The forecast of a running job, from what a pass knows of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.core.forecast import (
    NOTHING,
    Course,
    Forecast,
    Span,
    beside_time,
    forecast,
    pace,
    steps_time,
)
from costguard.core.schedule import beside, seen

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.core.snapshot import Snapshot

SAVE_LIKELY_MS = 5_000  # an adapter and its optimizer are some hundred megabytes


def outlook(snap: Snapshot, now: Moment) -> Forecast | None:
    """What finishing will still cost and whether it fits; None while too little is known.

    Later stages are taken to run at this one's pace, for as many steps as their samples ask for;
    where that cannot be told there is no forecast, rather than one that leaves them out. What the
    job file says will come beside the steps is allowed for until the first of it was seen.
    """
    facts, instance, tariff = snap.training, snap.instance, snap.tariff
    if instance is None or tariff is None or not facts.is_alive or not facts.steps:
        return None
    found, total, done = pace(facts.steps, facts.began), facts.total_steps, facts.steps[-1].step
    later_steps = None if total is None else _later_steps(snap, total)
    if found is None or total is None or later_steps is None:
        return None
    left = max(total - done, 0)
    run = snap.spec.runs[snap.stage]
    save = Span(0, min(SAVE_LIKELY_MS, run.save_grace_ms), run.save_grace_ms)
    seen_from = min(each.step for each in (facts.steps[0], facts.began) if each is not None)
    known = seen(run.schedule, found.pauses, seen_from, done, total)
    here = beside(run.schedule, known, done, total)
    slow, fast = found.step_ms * (1 + found.spread), found.step_ms * (1 - found.spread)
    step = Span(round(fast), round(found.step_ms), round(slow))
    after = steps_time(found, sum(later_steps)).plus(save)
    for later, steps in zip(snap.spec.runs[snap.stage + 1 :], later_steps, strict=True):
        after = after.plus(beside_time(beside(later.schedule, known, 0, steps), step, save))
    course = Course(
        before=NOTHING,
        steps=steps_time(found, left).plus(beside_time(here, step, save)),
        after=after,
        done_steps=done,
        left_steps=left,
    )
    stop_ms = snap.platform.stop_latency_ms
    stopping = Span(0, stop_ms // 4, stop_ms)
    told = forecast(
        course,
        tariff,
        instance.interval,
        snap.lease,
        snap.accounts,
        now,
        stopping,
        snap.latency_ms,
    )
    return replace(told, evaluations=here.known)


def _later_steps(snap: Snapshot, steps_here: int) -> list[int] | None:
    """How many steps each stage after this one has; None where their size is not known."""
    here = snap.spec.stages[snap.stage].max_samples
    steps = []
    for number in range(snap.stage + 1, len(snap.spec.runs)):
        samples = snap.spec.stages[number].max_samples
        if here is None or samples is None:
            return None
        steps.append(-(-steps_here * samples // here))
    return steps
