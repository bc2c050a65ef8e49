"""What the charts of one job are drawn from: its books and telemetry over time, thinned out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import case, func, select

from costguard.core.money import yuan_text
from costguard.report.advice import card_figures
from costguard.report.amounts import billed_s
from costguard.report.figures import hours_text, time_text
from costguard.store.models import Event, LedgerEntry, LedgerSum, PowerInterval, Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from costguard.store.models import Job

POINTS = 400  # as many as a screen shows; the books are summed up into so many steps
MARKS = ("training_started", "verdict", "stop_confirmed")
BATCH = 2_000


def series(session: Session, job: Job) -> dict[str, Any] | None:
    """The job's charts; None where it never ran. `at_s` counts from `from`.

    The disk of a paused instance costs for days after an hour of training: what is drawn is the
    time in which it ran, from the first charge to the last.
    """
    query = select(func.min(PowerInterval.started_ms), func.max(PowerInterval.metered_to_ms))
    running = query.where(PowerInterval.job_id == job.id, PowerInterval.kind == "running")
    ran = session.execute(running).one()
    from_ms, to_ms = cast("tuple[int | None, int]", tuple(ran))  # of no rows both are NULL
    if from_ms is None or to_ms <= from_ms:
        return None
    step_ms = max((to_ms - from_ms) // POINTS, 1)
    return {
        "from": time_text(from_ms),
        "to": time_text(to_ms),
        "length_s": _seconds(to_ms - from_ms),
        "cap_yuan": yuan_text(job.cap_micros),
        "money": _money(session, job, from_ms, to_ms, step_ms),
        "gpu": _gpu(session, job, from_ms, to_ms, step_ms),
        "loss": _loss(session, job, from_ms, to_ms),
        "phases": _phases(session, job),
        "marks": _marks(session, job, from_ms, to_ms),
    }


def _money(
    session: Session, job: Job, from_ms: int, to_ms: int, step_ms: int
) -> list[dict[str, Any]]:
    """Posted, and posted with what leases had reserved: the second is what a cap is held against.

    A charge counts when it was metered to, a grant and its settlement when they were booked.
    """
    at = case((LedgerEntry.kind == "charge", LedgerEntry.to_ms), else_=LedgerEntry.at_ms)
    number = (func.min(func.max(at, from_ms), to_ms) - from_ms) // step_ms
    spent = case((LedgerEntry.kind.in_(("charge", "adjust")), LedgerEntry.amount_micros), else_=0)
    held = case(
        (LedgerEntry.kind == "reserve", LedgerEntry.amount_micros),
        (LedgerEntry.kind == "settle", -LedgerEntry.amount_micros),
        (LedgerEntry.kind == "charge", -LedgerEntry.covered_micros),
        else_=0,
    )
    query = (
        select(number, func.sum(spent), func.sum(held))
        .where(LedgerEntry.job_id == job.id, at <= to_ms)
        .group_by(number)
        .order_by(number)
    )
    points, posted, reserved = [], 0, 0
    for place, more, change in session.execute(query):
        posted, reserved = posted + more, reserved + change
        points.append(
            {
                "at_s": _seconds(min((place + 1) * step_ms, to_ms - from_ms)),
                "spent_yuan": yuan_text(posted),
                "committed_yuan": yuan_text(posted + reserved),
            }
        )
    return points


def _gpu(
    session: Session, job: Job, from_ms: int, to_ms: int, step_ms: int
) -> list[dict[str, Any]]:
    """Of each stretch: mean and highest utilisation and highest memory of the busiest card."""
    slots: dict[int, list[tuple[float | None, float | None, float | None]]] = {}
    for at_ms, data in _records(session, job, "gpu", from_ms, to_ms):
        figures = card_figures(data)
        if figures != (None, None, None):
            slots.setdefault((at_ms - from_ms) // step_ms, []).append(figures)
    points = []
    for place in sorted(slots):
        means, tops, used = (
            [each for each in column if each is not None]
            for column in zip(*slots[place], strict=True)
        )
        points.append(
            {
                "at_s": _seconds(place * step_ms),
                "util_percent": round(sum(means) / len(means), 1) if means else None,
                "util_max_percent": round(max(tops), 1) if tops else None,
                "memory_percent": round(max(used), 1) if used else None,
            }
        )
    return points


def _loss(session: Session, job: Job, from_ms: int, to_ms: int) -> list[dict[str, Any]]:
    """Step and loss by stage; where there are too many, each k-th and the last."""
    points = [
        {
            "at_s": _seconds(at_ms - from_ms),
            "stage": stage,
            "step": data.get("step"),
            "loss": data["loss"],
        }
        for at_ms, stage, data in _staged(session, job, "progress", from_ms, to_ms)
        if isinstance(data.get("loss"), int | float)
    ]
    every = -(-len(points) // POINTS) or 1
    return [point for n, point in enumerate(points) if n % every == 0 or n == len(points) - 1]


def _phases(session: Session, job: Job) -> list[dict[str, Any]]:
    """Each stage's phases in the order in which they were first paid for."""
    query = (
        select(
            LedgerSum.stage,
            LedgerSum.phase,
            PowerInterval.price_micros_per_hour,
            func.sum(LedgerSum.amount_micros),
        )
        .join(PowerInterval, LedgerSum.interval_id == PowerInterval.id)
        .where(LedgerSum.job_id == job.id, LedgerSum.kind.in_(("charge", "adjust")))
        .group_by(LedgerSum.stage, LedgerSum.phase, LedgerSum.interval_id)
        .order_by(func.min(LedgerSum.first_id))
    )
    sums: dict[tuple[int, str], tuple[int, int]] = {}
    for stage, phase, price, amount in session.execute(query):
        paid_s, paid = sums.get((stage, phase), (0, 0))
        sums[stage, phase] = (paid_s + billed_s(amount, price), paid + amount)
    return [
        {
            "stage": None if stage < 0 else stage,
            "phase": phase or None,
            "hours": hours_text(paid_s),
            "subtotal_yuan": yuan_text(paid),
        }
        for (stage, phase), (paid_s, paid) in sums.items()
    ]


def _marks(session: Session, job: Job, from_ms: int, to_ms: int) -> list[dict[str, Any]]:
    query = select(Event).where(Event.job_id == job.id, Event.kind.in_(MARKS))
    return [
        {"at_s": _seconds(min(max(row.at_ms, from_ms), to_ms) - from_ms), "kind": row.kind}
        for row in session.scalars(query.order_by(Event.id))
    ]


def _records(
    session: Session, job: Job, kind: str, from_ms: int, to_ms: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    for at_ms, _stage, data in _staged(session, job, kind, from_ms, to_ms):
        yield at_ms, data


def _staged(
    session: Session, job: Job, kind: str, from_ms: int, to_ms: int
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The journal's records of a kind, in all stages, that fall into the time that is drawn."""
    query = (
        select(Telemetry.at_ms, Telemetry.stage, Telemetry.data_json)
        .where(Telemetry.job_id == job.id, Telemetry.kind == kind)
        .order_by(Telemetry.stage, Telemetry.seq)
        .execution_options(yield_per=BATCH)
    )
    for at_ms, stage, text in session.execute(query):
        if from_ms <= at_ms <= to_ms:
            yield at_ms, stage, json.loads(text)


def _seconds(ms: int) -> float:
    return round(ms / 1000, 1)
