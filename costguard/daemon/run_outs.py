"""What runs out by itself: the days that a platform keeps a stopped disk, and the wallet."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.daemon.load import open_interval
from costguard.errors import UserError
from costguard.providers.base import ProviderError
from costguard.providers.clocks import DAY_MS, hours_left, warning_days
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.models import Event, Instance, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.daemon.context import Context

log = logging.getLogger("costguard.chores")

LOW_HOURS = 4
SAY_AGAIN_MS = 3_600_000  # a wallet that stays low is said again after so long


def watch_run_outs(context: Context) -> None:
    """Warn of disks that will be deleted, 7, 3 and 1 days before, and of wallets nearly empty."""
    try:
        with context.store.read() as session:
            query = select(Instance).where(
                Instance.provider_id.is_not(None), Instance.released_ms.is_(None)
            )
            rows = list(session.scalars(query))
            running = {row.id for row in rows if open_interval(session, row.id, "running")}
    except StoreUnavailable as error:
        log.warning("%s", error)
        return
    by_account: dict[str, list[Instance]] = defaultdict(list)
    for row in rows:
        by_account[row.provider].append(row)
    for name, instances in sorted(by_account.items()):
        try:
            for row in instances:
                if row.id not in running:
                    _watch_disk(context, row)
            prices = [row.price_micros_per_hour for row in instances if row.id in running]
            if prices:
                _watch_wallet(context, name, sum(prices))
        except (ProviderError, StoreUnavailable, UserError) as error:
            log.warning("%s: %s", name, error)


def _gone_ms(context: Context, row: Instance, now: Moment) -> int | None:
    """When the platform deletes a stopped disk: by its rule or its own word, whichever is first."""
    assert row.provider_id is not None, "only what was rented is looked after"
    provider = context.provider(row.provider)
    days = provider.facts.release_after_off_days
    found = [] if days is None else [(row.stopped_seen_ms or 0) + days * DAY_MS]
    try:
        told_ms = provider.read(row.provider_id, now).release_at_ms
        found += [] if told_ms is None else [told_ms]
    except ProviderError as error:
        log.warning("%s: %s", row.provider, error)  # the rule stands without its word
    return min(found, default=None)


def _watch_disk(context: Context, row: Instance) -> None:
    if row.stopped_seen_ms is None:
        return
    now = context.clock.now()
    gone_ms, now_ms = _gone_ms(context, row, now), now.utc_ms
    if gone_ms is None:
        return
    with context.store.write() as session:
        warned = _last_days(session, row)
        due = warning_days(gone_ms, now_ms, warned)
        if due is None:
            return
        job = session.get_one(Job, row.job_id)
        left_hours = max(gone_ms - now_ms, 0) // 3_600_000
        text = (
            f"{row.provider} deletes {row.provider_id} with its disk in {left_hours} hours, "
            f"unless it is switched on: `costguard pull {job.name}`, then "
            f"`costguard release {job.name}`; or resume it"
        )
        if due == 0:
            text = f"{row.provider} may have deleted {row.provider_id}: its time was over"
        add_event(session, job.id, now_ms, "release_clock", text, {"days": due, "loud": True})
        name = job.name
    context.notify("warning", name, text)


def _last_days(session: Session, row: Instance) -> int | None:
    """The last warning of this stop; None for none yet."""
    query = select(Event.data_json).where(
        Event.job_id == row.job_id,
        Event.kind == "release_clock",
        Event.at_ms >= (row.stopped_seen_ms or 0),
    )
    data = session.scalars(query.order_by(Event.id.desc()).limit(1)).first()
    return None if data is None else int(json.loads(data)["days"])


def _watch_wallet(context: Context, name: str, micros_per_hour: int) -> None:
    balance = context.provider(name).balance_micros()
    hours = None if balance is None else hours_left(balance, micros_per_hour)
    if hours is None or hours >= LOW_HOURS:
        return
    now_ms = context.clock.now().utc_ms
    text = f"the wallet at {name} pays {hours} more hours of what runs there; top it up"
    with context.store.write() as session:
        said = select(Event.id).where(
            Event.kind == "low_balance",
            Event.at_ms > now_ms - SAY_AGAIN_MS,
            Event.text.contains(f" at {name} "),
        )
        if session.scalars(said).first() is not None:
            return
        data = {"provider": name, "hours": str(hours), "loud": True}
        add_event(session, None, now_ms, "low_balance", text, data)
    context.notify("alarm", name, text)
