"""What was known of an instance before a look at it, and what may have run while nobody looked.

Most platforms do not say when rent began or ended. Where an instance was started, and the first
look that gets through shows it off, the books must not take it to have been off all along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from costguard.core import meter
from costguard.core.moment import Moment, has_passed
from costguard.daemon.load import open_lease
from costguard.store.attest import is_attested
from costguard.store.events import add_event
from costguard.store.models import Instance, Intent, LeaseRow, PowerInterval
from costguard.store.reads import last_known
from costguard.store.tariffs import tariff_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.meter import MeterStep
    from costguard.core.power import PowerRead
    from costguard.core.tariff import Tariff
    from costguard.daemon.memory import Calls, JobMemory
    from costguard.providers.base import ProviderFacts
    from costguard.store.models import Job

# Built once: to put a statement together takes longer than to carry it out.
_LAST_END = (
    select(
        PowerInterval.ended_ms,
        PowerInterval.anchor_utc_ms,
        PowerInterval.anchor_boot_ms,
        PowerInterval.anchor_boot_id,
        PowerInterval.seen_to_ms,
        PowerInterval.seen_told_ms,
    )
    .where(PowerInterval.instance_id == bindparam("instance_id"), PowerInterval.kind == "running")
    .order_by(PowerInterval.id.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Before:
    """What was known of an instance before a look at it; times are UTC ms as our clock is now."""

    tariff: Tariff
    called_ms: int | None  # our start call
    ended_ms: int | None  # the end of its latest power interval
    ended_told_ms: int | None  # the same by the platform's clock
    earliest_ms: int | None  # before when rent cannot have begun; None: not known
    booked_ms: int | None  # the same by the books alone: what is told of rent may lie before a look
    rested_ms: int | None  # and whatever we called: when it was last off for all that the books say
    ends_by_ms: int | None  # by when what nobody saw had surely ended; None: not known
    enforced_by_ms: int | None  # the same of what was seen on: what ends that was read back
    lease_is_over: bool
    looks_apart_ms: int
    is_told: bool  # the platform says when rent began and ended, also of what nobody saw


def before_look(
    session: Session, instance: Instance, memory: JobMemory, facts: ProviderFacts, now: Moment
) -> Before:
    """What is known before this pass's read is among the seen, and its price the known one."""
    called_ms = _called_ms(instance, memory.calls, now)
    ended_ms, ended_told_ms = last_end(session, instance, now)
    if ended_ms is not None and ended_ms > now.utc_ms:
        ended_ms = None  # told by a wall clock that was set back since
    booked_off_ms = _booked_off_ms(session, instance, now)
    looked_off_ms = _looked_off_ms(memory, now)
    off_seen_ms = max((at for at in (booked_off_ms, looked_off_ms) if at is not None), default=None)
    lease = open_lease(session, instance.job_id)
    off_ms = None if memory.off_after is None else meter.as_of_ms(memory.off_after, now)
    return Before(
        tariff=tariff_of(instance),
        called_ms=called_ms,
        ended_ms=ended_ms,
        ended_told_ms=ended_told_ms,
        earliest_ms=meter.earliest_start_ms(called_ms, ended_ms, off_seen_ms, facts.cache_age_ms),
        booked_ms=meter.earliest_start_ms(called_ms, ended_ms, booked_off_ms, facts.cache_age_ms),
        rested_ms=meter.earliest_start_ms(None, ended_ms, booked_off_ms, facts.cache_age_ms),
        ends_by_ms=_sooner(_ends_by_ms(instance, lease, facts, now, was_seen=False), off_ms),
        enforced_by_ms=_sooner(_ends_by_ms(instance, lease, facts, now, was_seen=True), off_ms),
        lease_is_over=lease is not None and has_passed(_end_of(lease), now),
        looks_apart_ms=meter.looks_apart_ms(facts.poll_interval_ms, facts.cache_age_ms),
        is_told=facts.tells_meter_end,
    )


def ran_unseen(
    session: Session, instance: Instance, read: PowerRead | None, before: Before, memory: JobMemory
) -> bool:
    """Whether it may have run, and been charged, before this read, which shows it off."""
    if before.is_told or memory.shown_on:
        return not before.is_told
    was_ended = memory.calls.was_on or memory.calls.stop_calls > 0 or before.lease_is_over
    ends_it = was_ended and before.earliest_ms == before.called_ms
    fits = meter.fits_unseen(read, before.earliest_ms, before.looks_apart_ms, ends_it=ends_it)
    return fits and _was_started(session, instance, before)


def tell_assumed(session: Session, job: Job, step: MeterStep, now: Moment) -> None:
    """Say aloud what is charged although nobody saw it."""
    from_ms, to_ms = step.assumed_from_ms, step.close_at_ms or step.meter_to_ms
    if from_ms is None or to_ms is None:
        return
    seconds = (to_ms - from_ms) // 1000
    text = f"nobody could look: charged as if it had run for {seconds} s"
    if step.close_at_ms is None:
        text = "nobody can look: charged as running, as far as what is reserved for it lets it run"
    data = {"from_ms": from_ms, "to_ms": to_ms, "loud": True}
    add_event(session, job.id, now.utc_ms, "assumed_run", text, data)


def _was_started(session: Session, instance: Instance, before: Before) -> bool:
    """Whether it was told to run since it last was off for good, and not each time refused."""
    if before.called_ms is None or instance.stopped_seen_ms is not None:
        return False
    if before.ended_ms is not None and before.ended_ms >= before.called_ms:
        return False
    starts = select(Intent.state).where(
        Intent.kind == "start",
        Intent.key.startswith(f"start:{instance.id}:"),
        Intent.created_ms >= (instance.started_call_ms or 0),
    )
    states = session.scalars(starts).all()
    return not states or any(state != "failed" for state in states)


def _sooner(ends_by_ms: int | None, off_ms: int | None) -> int | None:
    """What was seen off again in looks that could not be written ended by then at the latest."""
    return min((at for at in (ends_by_ms, off_ms) if at is not None), default=None)


def _ends_by_ms(
    instance: Instance,
    lease: LeaseRow | None,
    facts: ProviderFacts,
    now: Moment,
    *,
    was_seen: bool,
) -> int | None:
    """By when rent that nobody saw had ended: else it would be on still.

    What had it end is the platform's timer, which is set to the end of its lease; or a person, who
    says so. Where there is no timer, whoever it was may have come at any time. What was seen on
    (`was_seen`) may be on still: there the timer has to have been read back for this lease.
    """
    ends = []
    has_timer = facts.timer_min_lead_ms is not None or facts.arms_timer_at_create
    is_armed = not was_seen or lease is None or lease.armed_end_utc_ms > 0
    if has_timer and lease is not None and is_armed:
        ends.append(meter.as_of_ms(_end_of(lease), now) + lease.latency_ms)
    elif has_timer and lease is None and instance.timer_at_ms is not None:
        late_ms = facts.timer_lateness_ms + facts.stop_latency_ms
        ends.append(instance.timer_at_ms + late_ms)
    if is_attested(instance) and instance.attested_stop_ms is not None:
        ends.append(instance.attested_stop_ms)
    return min(ends, default=None)


def _end_of(lease: LeaseRow) -> Moment:
    return Moment(lease.end_utc_ms, lease.end_boot_ms, lease.boot_id)


def _called_ms(instance: Instance, calls: Calls, now: Moment) -> int | None:
    """Our start call, also where the wall clock was set since: the last call, if no stop was."""
    called_ms, last = instance.started_call_ms, calls.last
    if called_ms is None or last is None or last.utc_ms != called_ms:
        return called_ms
    return meter.as_of_ms(last, now)


def last_end(session: Session, instance: Instance, now: Moment) -> tuple[int | None, int | None]:
    """When its latest power interval ended, by our wall clock as it is now and by the platform's.

    None: it has not, or that clock does not know.
    """
    found = session.execute(_LAST_END, {"instance_id": instance.id}).first()
    if found is None or found.ended_ms is None:
        return None, None
    ended_ms, told_ms = found.ended_ms, found.seen_told_ms
    if told_ms is not None:
        told_ms += ended_ms - found.seen_to_ms
    if ended_ms > now.utc_ms:  # it was set back since
        anchor = Moment(found.anchor_utc_ms, found.anchor_boot_ms, found.anchor_boot_id)
        ended_ms = meter.as_of_ms(anchor.plus_ms(ended_ms - anchor.utc_ms), now)
    return ended_ms, told_ms


def _booked_off_ms(session: Session, instance: Instance, now: Moment) -> int | None:
    """When it was last seen off, or waiting for a card, by a look that is in the books."""
    latest = last_known(session, instance.id)
    if latest is None or latest.power.may_charge:
        return None
    return meter.as_of_ms(latest.begun, now)


def _looked_off_ms(memory: JobMemory, now: Moment) -> int | None:
    """The same by looks that could not be written yet."""
    seen = [at for at in (memory.off_before, memory.waited) if at is not None]
    return max((meter.as_of_ms(at, now) for at in seen), default=None)
