"""A new instance after all: what a job was to go on on goes back, or was never to be had.

One transaction does it all: what was reserved is settled, the paused instance is its earlier
job's again as if it had never been lent, and the job is one that rents. A daemon killed at any
point has either the one or the other before it, and no second instance beside a wanted first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core import actions as act
from costguard.core.calendar import month_of
from costguard.core.decide import FIRST_LEASE_SHORTEST_MS
from costguard.core.lease import offer_lease
from costguard.core.money import yuan_text
from costguard.core.snapshot import Verdict
from costguard.core.tariff import hold_micros, list_price_micros
from costguard.daemon.asking import price_of
from costguard.daemon.load import newest_instance, open_interval, open_lease
from costguard.providers.base import NoCapacity, ProviderError
from costguard.store.events import add_event
from costguard.store.ledger import accounts, adjust, settle
from costguard.store.models import Event, Instance, Job, PowerInterval
from costguard.store.tariffs import set_tariff, tariff_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.core.tariff import Tariff
    from costguard.daemon.act import Actor
    from costguard.providers.base import Quote

HANDED_OVER = "handed_over"
DISK_STAYS = "it went back to the job that had it, whose disk it is all along"
# What the last call and read have shown of the machine is as true for whom it goes back to.
SHOWN = ("power", "last_call_utc_ms", "last_call_boot_ms", "last_call_boot_id", "timer_at_ms")


class _TooDear(Exception):
    """The caps do not bear a new instance beside the paused one: nothing of it is committed."""


def let_go(actor: Actor) -> None:
    """Rent a new one; where that cannot be, wait for the paused one as for any other."""
    denied = actor.memory.denied
    if denied is None or actor.memory.unmetered:
        return  # what was seen is charged first
    why_not = rent_instead(actor, str(denied))
    if why_not is None:
        return
    actor.memory.denied = None
    if not isinstance(denied, NoCapacity):
        actor.conclude_now(Verdict("platform", f"the start was refused: {denied}", {}, save=False))
        return
    actor.rest(act.Rest())
    text = f"it waits for {actor.snap.spec.instance.instance_id}: {why_not}"
    with actor.context.store.write() as session:
        add_event(session, actor.job_id, actor.now().utc_ms, "reuse_waits", text)
    actor.context.notify("info", actor.snap.spec.name, text)


def rent_instead(actor: Actor, why: str) -> str | None:
    """Have the next pass rent a new instance, and say so with its price; else, why that cannot be.

    With nothing taken yet there is nothing to go back to: then limits are judged where all are.
    """
    was, now = actor.snap.spec, actor.now()
    spec = was.rented_anew()
    try:
        quote = price_of(actor.provider, spec, actor.context.client_public_key, now)
    except ProviderError as error:
        return f"a new one has no price now: {error}"
    price = list_price_micros(quote.tariff, now.utc_ms)
    is_taken = actor.snap.instance is not None
    if is_taken and (why_not := _why_not(actor, quote, price)) is not None:
        return why_not
    text = (
        f"a new one is rented, at {yuan_text(price)} yuan an hour, "
        f"instead of {was.instance.instance_id}: {why}"
    )
    try:
        with actor.context.store.write() as session:
            job = session.get_one(Job, actor.job_id)
            lease = open_lease(session, job.id)
            if lease is not None:
                settle(session, job, lease, now.utc_ms, actor.month(now))
            taken = newest_instance(session, job.id)
            if taken is not None:
                _hand_back(session, actor, job, taken, now)
            job.spec_json, job.retry_at_ms = spec.to_json(), None
            job.hold_micros = hold_micros(quote.tariff, spec.instance.keep_for_ms)
            session.flush()
            if taken is not None:
                _refuse_too_dear(session, actor, job, quote.tariff, now)
            add_event(session, job.id, now.utc_ms, "reuse_ended", text)
    except _TooDear:
        return "the budget does not bear a new one beside it"
    actor.memory.forget_instance()
    actor.memory.tariff = quote.tariff
    actor.context.notify("warning", was.name, text)
    actor.wake()
    return None


def who_has_it_now(session: Session, job: Job) -> str | None:
    """The job that drives the instance which `job` had, in a sentence; None where it is gone."""
    newest = select(Instance).where(Instance.job_id == job.id).order_by(Instance.id.desc())
    had = session.scalars(newest.limit(1)).first()
    if had is None or had.provider_id is None:
        return None
    query = (
        select(Job.name)
        .join(Instance, Instance.job_id == Job.id)
        .where(Instance.provider == had.provider, Instance.provider_id == had.provider_id)
        .where(Instance.released_ms.is_(None), Job.id != job.id)
    )
    name = session.scalars(query).first()
    return None if name is None else f"the instance of {job.name} is the job {name}'s now"


def _why_not(actor: Actor, quote: Quote, price: int) -> str | None:
    limit = actor.snap.spec.instance.max_price_micros_per_hour
    if not quote.in_stock:
        return "no card is free for a new one either"
    if limit is not None and price > limit:
        return f"a new one costs {yuan_text(price)} yuan an hour, above max_price_yuan_per_hour"
    return None


def _refuse_too_dear(session: Session, actor: Actor, job: Job, tariff: Tariff, now: Moment) -> None:
    """_TooDear where no first lease of a new one fits every cap, both disks held for."""
    scopes = accounts(session, job, actor.context.caps(), (actor.month(now),))
    wanted_ms, latency_ms = actor.snap.spec.lease_ms, actor.snap.latency_ms
    least_ms = FIRST_LEASE_SHORTEST_MS
    if offer_lease(tariff, None, None, scopes, now, wanted_ms, latency_ms, least_ms) is None:
        raise _TooDear


def _hand_back(session: Session, actor: Actor, job: Job, taken: Instance, now: Moment) -> None:
    """The machine is its earlier job's again: its state, what is held, its disk's one interval."""
    query = select(Instance).where(
        Instance.provider == taken.provider,
        Instance.provider_id == taken.provider_id,
        Instance.id < taken.id,
    )
    row = session.scalars(query.order_by(Instance.id.desc()).limit(1)).one()
    owner = session.get_one(Job, row.job_id)
    given = select(Event).where(Event.job_id == owner.id, Event.kind == HANDED_OVER)
    had = json.loads(session.scalars(given.order_by(Event.id.desc()).limit(1)).one().data_json)
    disk = open_interval(session, taken.id, "disk")
    if disk is not None:
        month = month_of(disk.metered_to_ms, actor.context.zone)
        adjust(session, job, disk, 0, DISK_STAYS, now.utc_ms, month)
        disk.ended_ms = max(now.utc_ms, disk.metered_to_ms)
    of_owner = select(PowerInterval).where(
        PowerInterval.instance_id == row.id, PowerInterval.kind == "disk"
    )
    own_disk = session.scalars(of_owner.order_by(PowerInterval.id.desc()).limit(1)).first()
    if own_disk is not None:
        own_disk.ended_ms = None
    for name in SHOWN:
        setattr(row, name, getattr(taken, name))
    set_tariff(row, tariff_of(taken))
    row.stop_calls, row.stop_accepted, row.was_on = 0, False, False
    row.stopped_seen_ms, row.released_ms = now.utc_ms, None
    taken.released_ms = taken.replaced_ms = now.utc_ms
    owner.state, owner.hold_micros = had["state"], had["hold_micros"]
    text = f"its instance is its own again: {job.name} found no free card there"
    add_event(session, owner.id, now.utc_ms, "handed_back", text)
