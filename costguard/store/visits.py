"""Visits as the database keeps them: one open at a time for a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from costguard.core.moment import Moment
from costguard.core.snapshot import Visit
from costguard.store.events import add_event
from costguard.store.models import VisitRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.models import Job

_OPEN_VISIT = (
    select(VisitRow)
    .where(VisitRow.job_id == bindparam("job_id"), VisitRow.closed_ms.is_(None))
    .order_by(VisitRow.id.desc())
    .limit(1)
)


def open_visit(session: Session, job_id: int) -> VisitRow | None:
    """The visit of the job that is not closed yet."""
    return session.scalars(_OPEN_VISIT, {"job_id": job_id}).first()


def visit_facts(row: VisitRow | None) -> Visit | None:
    """A visit as decisions take it."""
    if row is None:
        return None
    until = None
    if row.until_utc_ms is not None:
        until = Moment(row.until_utc_ms, row.until_boot_ms or 0, row.until_boot_id or "")
    heard = Moment(row.heard_utc_ms, row.heard_boot_ms, row.heard_boot_id)
    return Visit(row.id, row.purpose, row.length_ms, until, heard)


def begin_time(session: Session, job_id: int, switched_on: Moment) -> None:
    """Count an open visit's time from this start call: what is switched on is on for so long."""
    row = open_visit(session, job_id)
    if row is None:
        return
    until = switched_on.plus_ms(row.length_ms)
    row.until_utc_ms, row.until_boot_ms = until.utc_ms, until.boot_ms
    row.until_boot_id = until.boot_id


def end_holding(session: Session, job: Job, at_ms: int, why: str) -> None:
    """The instance that was on for a pull or a visit goes off again, to the end that it had.

    After a visit the disk is a person's: no job file deletes it behind their back.
    """
    row = open_visit(session, job.id)
    if job.wish == "pull":
        job.wish = "run"
    elif job.wish == "visit":
        job.wish = "keep"
    if row is not None:
        row.why = row.why or why
    kind = "fetched" if row is None else "visit_over"
    add_event(session, job.id, at_ms, kind, why)


def close_visit(session: Session, job_id: int, at_ms: int) -> None:
    """The stop after the visit is proven: it is part of the past."""
    row = open_visit(session, job_id)
    if row is not None:
        row.closed_ms = at_ms
