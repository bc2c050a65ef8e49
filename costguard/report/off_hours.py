"""The hours between two runs in which a job's instance was off and cost nothing.

They are rows of their own on the report, at 0 yuan: what was done by hand meanwhile (preparing
data, judging a result) is part of a project's hours and not of its bill. Where the paused disk
has a price its own row says so, and no free one stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from costguard.store.models import Instance, LedgerSum, PowerInterval

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

PHASE = "paused"
MS_PER_S = 1_000


@dataclass(frozen=True, slots=True)
class OffHours:
    """One such stretch, after the interval of that number, in the stage that it had come to."""

    job_id: int
    after_interval: int
    provider: str
    instance: str | None
    gpu: str | None
    stage: int | None
    off_s: int


def off_hours(session: Session) -> list[OffHours]:
    """Every free stretch between two running intervals of the same job, oldest first."""
    query = (
        select(
            PowerInterval.job_id,
            PowerInterval.id,
            PowerInterval.started_ms,
            PowerInterval.ended_ms,
            Instance.provider,
            Instance.provider_id,
            Instance.gpu,
        )
        .join(Instance, PowerInterval.instance_id == Instance.id)
        .where(PowerInterval.kind == "running", Instance.paused_micros_per_hour == 0)
        .order_by(PowerInterval.job_id, PowerInterval.started_ms, PowerInterval.id)
    )
    found = []
    for before, after in pairwise(session.execute(query).all()):
        if before.job_id == after.job_id and before.ended_ms is not None:
            off_s = (after.started_ms - before.ended_ms) // MS_PER_S
            if off_s > 0:
                found.append((before, off_s))
    stages = _last_stages(session, [before.id for before, _ in found])
    return [
        OffHours(
            before.job_id,
            before.id,
            before.provider,
            before.provider_id,
            before.gpu,
            stages.get(before.id),
            off_s,
        )
        for before, off_s in found
    ]


def _last_stages(session: Session, intervals: list[int]) -> dict[int, int]:
    """The last stage that was charged in each interval, where one was."""
    if not intervals:
        return {}
    query = (
        select(LedgerSum.interval_id, func.max(LedgerSum.stage))
        .where(LedgerSum.interval_id.in_(intervals), LedgerSum.stage >= 0)
        .group_by(LedgerSum.interval_id)
    )
    return {interval: stage for interval, stage in session.execute(query)}  # noqa: C416  (rows)
