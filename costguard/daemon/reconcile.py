"""Reconciliation: each instance's bill is read, held against the books, and settled once closed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core.calendar import month_of
from costguard.core.money import yuan_text
from costguard.core.reconcile import compare
from costguard.core.tariff import S_PER_HOUR
from costguard.daemon.adopt import is_adopted
from costguard.errors import UserError
from costguard.providers.base import ProviderError
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.ledger import adjust, posted_micros
from costguard.store.models import Instance, Job, PowerInterval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from costguard.daemon.context import Context

log = logging.getLogger("costguard.reconcile")

# Bill and books are read at different moments: so much of the disk's price may lie between them.
DISK_SLACK_S = 300


def reconcile(context: Context) -> None:
    """Read every instance's bill; what cannot be read or written now is left for the next time."""
    try:
        with context.store.read() as session:
            rows = session.scalars(select(Instance).where(Instance.provider_id.is_not(None))).all()
    except StoreUnavailable as error:
        log.warning("%s", error)
        return
    for row in rows:
        if row.released_ms is None:
            try:
                _reconcile_one(context, row)
            except (ProviderError, StoreUnavailable, UserError) as error:
                log.warning("%s: %s", row.provider_id, error)


def _reconcile_one(context: Context, known: Instance) -> None:
    assert known.provider_id is not None
    bill = context.provider(known.provider).bill_micros(known.provider_id)
    if bill is None:
        return
    now = context.clock.now()
    with context.store.write() as session:
        row = session.get_one(Instance, known.id)
        if is_adopted(session, row):
            return  # its bill began before the job did
        told = row.bill_micros
        row.bill_micros, row.bill_read_ms = bill, now.utc_ms
        posted = posted_micros(session, instance_id=row.id)
        intervals = session.scalars(
            select(PowerInterval).where(PowerInterval.instance_id == row.id)
        ).all()
        stopped = row.stopped_seen_ms
        stopped_for_ms = None if stopped is None else now.utc_ms - stopped
        found = compare(posted, bill, _tolerance_micros(row, intervals), stopped_for_ms)
        if found.is_agreed or (bill == told and not found.adjust_micros):
            return
        side = "above" if found.drift_micros > 0 else "below"
        text = f"the bill is {yuan_text(abs(found.drift_micros))} yuan {side} the books"
        data = {"bill_micros": bill, "posted_micros": posted, "adjusted": found.adjust_micros}
        add_event(session, row.job_id, now.utc_ms, "drift", text, data)
        if found.adjust_micros:
            _adjust(session, intervals, found.adjust_micros, context, now.utc_ms)
    context.notify("warning", f"instance {known.provider_id}", text)


def _tolerance_micros(row: Instance, intervals: Sequence[PowerInterval]) -> int:
    """One quantum for each power interval, and a little disk."""
    quanta = sum(
        -(-each.quantum_s * each.price_micros_per_hour // S_PER_HOUR)
        for each in intervals
        if each.kind == "running"
    )
    return quanta + -(-DISK_SLACK_S * row.paused_micros_per_hour // S_PER_HOUR)


def _adjust(
    session: Session,
    intervals: Sequence[PowerInterval],
    by_micros: int,
    context: Context,
    now_ms: int,
) -> None:
    """Post the difference to the last stretch that ran; there is one, or nothing was billed."""
    ran = [each for each in intervals if each.kind == "running"]
    if not ran:
        return
    last = ran[-1]
    month = month_of(last.ended_ms or last.metered_to_ms, context.zone)
    why = "the platform's bill for the closed period"
    job = session.get_one(Job, last.job_id)
    adjust(session, job, last, last.posted_micros + by_micros, why, now_ms, month)
