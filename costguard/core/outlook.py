"""The forecast of a running job, from what a pass knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.core.forecast import NOTHING, Course, Forecast, Span, forecast, pace, steps_time

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.core.snapshot import Snapshot

SAVE_LIKELY_MS = 5_000  # an adapter and its optimizer are some hundred megabytes


def outlook(snap: Snapshot, now: Moment) -> Forecast | None:
    """What finishing will still cost and whether it fits; None while too little is known.

    Later stages are taken to run at this one's pace, for as many steps as their samples ask for;
    where that cannot be told there is no forecast, rather than one that leaves them out.
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
    course = Course(
        before=NOTHING,
        steps=steps_time(found, left),
        after=steps_time(found, later_steps).plus(save),
        done_steps=done,
        left_steps=left,
    )
    stop_ms = snap.platform.stop_latency_ms
    stopping = Span(0, stop_ms // 4, stop_ms)
    return forecast(
        course,
        tariff,
        instance.interval,
        snap.lease,
        snap.accounts,
        now,
        stopping,
        snap.latency_ms,
    )


def _later_steps(snap: Snapshot, steps_here: int) -> int | None:
    """How many steps the stages after this one have; None where their size is not known."""
    here = snap.spec.stages[snap.stage].max_samples
    steps = 0
    for number in range(snap.stage + 1, len(snap.spec.runs)):
        samples = snap.spec.stages[number].max_samples
        if here is None or samples is None:
            return None
        steps += -(-steps_here * samples // here)
    return steps
