"""From what the daemon has written down to what a person is told, in one transaction.

The events are the outbox's source: whoever records a fact need not know that anybody is told.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.dialects.sqlite import insert

from costguard.notify.kinds import CAP_PERCENTS, notice_of
from costguard.notify.quiet import morning_of
from costguard.store.ledger import posted_micros
from costguard.store.models import Delivery, Event, Job, Meta, Notice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

CURSOR = "notify_cursor"
EVENTS_AT_ONCE = 500
OPEN_STATES = ("released", "finished", "paused", "failed")
DAY_MS = 24 * 3_600_000
WAITS_FOR_A_PERSON = ("budget", "gate", "max_hours", "idle", "stalled", "blind", "diverged")


def collect(session: Session, channels: Sequence[str], now_ms: int) -> int:
    """Put a notice into the outbox for each event since the last time; how many there were.

    The first time there is nothing to tell: what happened before anybody listened is history.
    """
    newest = session.scalar(select(func.max(Event.id))) or 0
    row = session.get(Meta, CURSOR)
    if row is None:
        session.add(Meta(key=CURSOR, value=str(newest)))
        return 0
    query = select(Event).where(Event.id > int(row.value)).order_by(Event.id)
    events = session.scalars(query.limit(EVENTS_AT_ONCE)).all()
    added = 0
    for event in events:
        data = json.loads(event.data_json)
        found = notice_of(event.id, event.job_id, event.at_ms, event.kind, data, event.text)
        if found is not None:
            facts = {**_facts_of(session, event.job_id), "said": event.text}
            if event.kind == "low_balance":
                about = data or {}
                facts |= {key: about.get(key) for key in ("provider", "hours")}
            if event.kind == "state":
                facts["state"] = event.text  # the job may have gone on since
            added += _add(
                session, channels, found.kind, found.key, event.at_ms, event.job_id, facts, now_ms
            )
    if events:
        row.value = str(events[-1].id)
    return added + _caps(session, channels, now_ms)


def add_morning(
    session: Session, channels: Sequence[str], zone: ZoneInfo, minute: int | None, now_ms: int
) -> bool:
    """Put the night's summary into the outbox, once a day, if there is something to say."""
    today = None if minute is None else morning_of(now_ms, zone, minute)
    if today is None:
        return False
    date, due_ms = today
    ran = set(
        session.scalars(
            select(Event.job_id).where(
                Event.at_ms >= due_ms - DAY_MS, Event.at_ms < due_ms, Event.job_id.is_not(None)
            )
        )
    )
    jobs = [
        _facts_of(session, job.id)
        for job in session.scalars(select(Job).order_by(Job.id))
        if job.id in ran or (job.state == "paused" and job.pause_reason in WAITS_FOR_A_PERSON)
    ]
    if not jobs:
        return False
    facts = {"jobs": jobs, "date": date}
    return _add(session, channels, "morning", f"morning:{date}", due_ms, None, facts, now_ms) > 0


def _caps(session: Session, channels: Sequence[str], now_ms: int) -> int:
    """A notice for the highest share of its cap that an unfinished job has just gone past."""
    added = 0
    for job in session.scalars(select(Job).where(Job.state.not_in(OPEN_STATES))):
        spent = posted_micros(session, job_id=job.id)
        for percent in CAP_PERCENTS:
            if job.cap_micros > 0 and spent * 100 >= job.cap_micros * percent:
                facts = {**_facts_of(session, job.id), "percent": percent}
                key = f"cap:{job.id}:{job.cap_micros}:{percent}"
                added += _add(
                    session, channels, f"cap_{percent}", key, now_ms, job.id, facts, now_ms
                )
                break
    return added


def _facts_of(session: Session, job_id: int | None) -> dict[str, Any]:
    """What a message about a job says of it; the figures are of the moment it is put down."""
    job = None if job_id is None else session.get(Job, job_id)
    if job is None:
        return {"job": None}
    return {
        "job": job.name,
        "state": job.state,
        "reason": job.pause_reason,
        "why": job.verdict_text,
        "spent_micros": posted_micros(session, job_id=job.id),
        "cap_micros": job.cap_micros,
    }


def _add(
    session: Session,
    channels: Sequence[str],
    kind: str,
    key: str,
    at_ms: int,
    job_id: int | None,
    facts: dict[str, Any],
    now_ms: int,
) -> int:
    """1 if the notice is new: then it is on its way to each channel."""
    if not channels:
        return 0
    text = json.dumps(facts, ensure_ascii=False)
    values = {"key": key, "at_ms": at_ms, "job_id": job_id, "kind": kind, "data_json": text}
    made = session.execute(
        insert(Notice).values(**values).on_conflict_do_nothing().returning(Notice.id)
    )
    notice_id = made.scalar_one_or_none()
    if notice_id is None:
        return 0
    session.add_all(
        Delivery(notice_id=notice_id, channel=name, state="waiting", attempts=0, next_ms=now_ms)
        for name in channels
    )
    session.flush()
    return 1
