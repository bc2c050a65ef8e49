"""What was known of an instance before a look at it, and what may have run while nobody looked.

Most platforms do not say when rent began or ended. Where an instance was started, and the first
look that gets through shows it off, the books must not take it to have been off all along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from costguard.core import meter
from costguard.core.power import Power
from costguard.store.models import Instance, Intent, PowerInterval
from costguard.store.reads import last_read
from costguard.store.tariffs import tariff_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.core.power import PowerRead
    from costguard.core.tariff import Tariff
    from costguard.daemon.memory import Calls, JobMemory
    from costguard.providers.base import ProviderFacts

# Built once: to put a statement together takes longer than to carry it out.
_LAST_END = (
    select(PowerInterval.ended_ms)
    .where(PowerInterval.instance_id == bindparam("instance_id"), PowerInterval.kind == "running")
    .order_by(PowerInterval.id.desc())
    .limit(1)
)
# An instance that nobody looked at for longer than so many polls may have come on and gone off.
LOOKS_APART_POLLS = 2


@dataclass(frozen=True, slots=True)
class Before:
    """What was known of an instance before a look at it; times are UTC ms as our clock is now."""

    tariff: Tariff
    power: Power
    called_ms: int | None  # our start call
    ended_ms: int | None  # the end of its latest power interval
    earliest_ms: int | None  # before when rent cannot have begun; None: not known
    looks_apart_ms: int  # further apart than this, a start and an end fit between two looks
    is_told: bool  # the platform says when rent began and ended, also of what nobody saw


def before_look(
    session: Session, instance: Instance, calls: Calls, facts: ProviderFacts, now: Moment
) -> Before:
    """What is known before this pass's read is among the seen, and its price the known one."""
    called_ms, ended_ms = _called_ms(instance, calls, now), last_end_ms(session, instance)
    seen_off_ms = _seen_off_ms(session, instance, now)
    return Before(
        tariff=tariff_of(instance),
        power=Power(instance.power),
        called_ms=called_ms,
        ended_ms=ended_ms,
        earliest_ms=meter.earliest_start_ms(called_ms, ended_ms, seen_off_ms, facts.cache_age_ms),
        looks_apart_ms=LOOKS_APART_POLLS * facts.poll_interval_ms + facts.cache_age_ms,
        is_told=facts.tells_meter_end,
    )


def ran_unseen(
    session: Session, instance: Instance, read: PowerRead | None, before: Before, memory: JobMemory
) -> bool:
    """Whether it may have run, and been charged, before this read, which shows it off."""
    if before.is_told or memory.shown_on:
        return not before.is_told
    ends_it = memory.calls.was_on or memory.calls.stop_calls > 0
    fits = meter.fits_unseen(read, before.earliest_ms, before.looks_apart_ms, ends_it=ends_it)
    return fits and _was_started(session, instance, before)


def _was_started(session: Session, instance: Instance, before: Before) -> bool:
    """Whether it was told to run since it last was off for good, and this was not refused.

    One that was made for us, or found, is on unless the last look showed it off.
    """
    if before.called_ms is None or instance.stopped_seen_ms is not None:
        return False
    if before.ended_ms is not None and before.ended_ms >= before.called_ms:
        return False
    starts = select(Intent.state).where(
        Intent.kind == "start", Intent.key.startswith(f"start:{instance.id}:")
    )
    latest = session.scalars(starts.order_by(Intent.id.desc()).limit(1)).first()
    return before.power.may_charge if latest is None else latest != "failed"


def _called_ms(instance: Instance, calls: Calls, now: Moment) -> int | None:
    """Our start call, also where the wall clock was set since: the last call, if no stop was."""
    called_ms, last = instance.started_call_ms, calls.last
    if called_ms is None or last is None or last.utc_ms != called_ms:
        return called_ms
    return meter.as_of_ms(last, now)


def last_end_ms(session: Session, instance: Instance) -> int | None:
    """When the instance's latest power interval ended; None while it has not."""
    return session.scalars(_LAST_END, {"instance_id": instance.id}).first()


def _seen_off_ms(session: Session, instance: Instance, now: Moment) -> int | None:
    """When the latest read was made, if that showed it off."""
    latest = last_read(session, instance.id)
    if latest is None or latest.power.may_charge:
        return None
    return meter.as_of_ms(latest.begun, now)
