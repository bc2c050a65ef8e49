"""Metering: what a look at an instance does to its power intervals, its disk and the ledger.

What it does is decided by `core/meter.py`; here it is read from the database and written to it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.core import meter, terms
from costguard.core.calendar import month_of
from costguard.core.moment import Moment
from costguard.core.money import yuan_text
from costguard.core.tariff import (
    Tariff,
    free_left_s,
    paused_micros,
    price_micros,
    repriced,
    same_terms,
)
from costguard.daemon.load import metered, open_interval, open_lease
from costguard.daemon.strays import lease_of_double
from costguard.daemon.unseen import Before, last_end, ran_unseen, tell_assumed
from costguard.store.attest import weigh
from costguard.store.events import add_event
from costguard.store.ledger import Place, adjust, charge
from costguard.store.models import Instance, Job, LeaseRow, PowerInterval
from costguard.store.tariffs import disk_tariff_of, set_tariff, tariff_of

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

    from costguard.core.power import PowerRead
    from costguard.daemon.memory import JobMemory
    from costguard.providers.base import InstanceView

# After this many missed polls without an answer the meter is taken to run on.
ASSUME_AFTER_POLLS = 30
ASSUMED = "the platform's stop was earlier than assumed while it did not answer"
REPRICED = "another price was in force from earlier on than had been charged"


def meter_running(
    session: Session,
    job: Job,
    instance: Instance,
    read: PowerRead | None,
    now: Moment,
    zone: ZoneInfo,
    before: Before,
    memory: JobMemory,
    assume_after_ms: int,
) -> None:
    """Charge what the latest read shows to have run; open and close power intervals."""
    told = read
    rests, read = weigh(session, instance, read)
    if rests:
        return
    row = open_interval(session, instance.id, "running")
    is_told = read is not None and read.charged_since_ms is not None
    earliest_ms = before.booked_ms if is_told else before.earliest_ms
    rested_ms, ended_told_ms = before.rested_ms, before.ended_told_ms
    earliest_ms = meter.told_start_ms(read, earliest_ms, rested_ms, ended_told_ms)
    ends_by_ms = before.ends_by_ms
    if row is not None:
        _anchor_in_this_boot(row, read, now)
        row = _reprice(session, job, row, tariff_of(instance), read, now, zone)
        ends_by_ms = before.enforced_by_ms
        ended_ms = _ended_before_ms(row, read, now, ends_by_ms)
        if ended_ms is not None:  # what the read tells of is another rent, which began since
            _end(session, job, instance, row, ended_ms, now, zone)
            if ended_ms > row.started_ms:
                earliest_ms = max(earliest_ms or 0, ended_ms)
            row = None
    if row is None and (
        meter.tells_nothing_new(read, rested_ms, before.called_ms)
        or meter.is_of_before(told, ended_told_ms)
    ):
        read = None
    open_now = None if row is None else metered(row)
    ran = row is None and ran_unseen(session, instance, read, before, memory)
    step = meter.step(
        open_now,
        read,
        now,
        earliest_ms,
        assume_after_ms,
        may_have_run=ran,
        ends_by_ms=ends_by_ms,
    )
    tell_assumed(session, job, step, now)
    if step.open_at_ms is not None and read is not None:
        tariff = terms.opening_tariff(before.tariff, tariff_of(instance), read.begun.utc_ms)
        tariff = terms.dearest_least(tariff, read, step)
        origin_ms = step.origin_ms or _goes_on_from_ms(
            session, instance, told, step.open_at_ms, now
        )
        row = _open_as(session, instance, tariff, replace(step, origin_ms=origin_ms), read.begun)
    if row is not None:
        _take(session, job, instance, row, step, read, now, zone)


def _take(
    session: Session,
    job: Job,
    instance: Instance,
    row: PowerInterval,
    step: meter.MeterStep,
    read: PowerRead | None,
    now: Moment,
    zone: ZoneInfo,
) -> None:
    """Charge the interval as far as the step says, and end it where it does."""
    if step.seen_to_ms is not None:
        _see(row, step.seen_to_ms, read)
    if step.meter_to_ms is not None:
        row = _turn(session, job, row, step.meter_to_ms, now, zone)
        _charge_to(session, job, row, step.meter_to_ms, now, zone)
    if step.close_at_ms is not None:
        if step.open_at_ms is not None:
            row.seen_told_ms = meter.told_of_ms(read, step.close_at_ms)
            row.seen_to_ms = step.close_at_ms
        _end(session, job, instance, row, step.close_at_ms, now, zone)
    elif step.open_at_ms is not None:  # it opened under the dearer terms: these hold from now on
        _reprice(session, job, row, tariff_of(instance), read, now, zone)


def _ended_before_ms(
    row: PowerInterval, read: PowerRead | None, now: Moment, ends_by_ms: int | None
) -> int | None:
    """When the open interval ended, if the read tells of rent that began after it."""
    return None if read is None else meter.ended_before_ms(metered(row), read, now, ends_by_ms)


def _end(
    session: Session,
    job: Job,
    instance: Instance,
    row: PowerInterval,
    at_ms: int,
    now: Moment,
    zone: ZoneInfo,
) -> None:
    """Charge the interval up to its end, and close it."""
    row = _turn(session, job, row, at_ms, now, zone)
    close_interval(session, job, row, at_ms, now, zone)
    _carry_free_time(instance, row, at_ms)


def _goes_on_from_ms(
    session: Session, instance: Instance, read: PowerRead | None, open_at_ms: int, now: Moment
) -> int | None:
    """When the rent began that this interval only goes on with: one had been closed too early."""
    since_ms = None if read is None else read.charged_since_ms
    if since_ms is None or since_ms >= open_at_ms:
        return None
    return since_ms if last_end(session, instance, now)[0] == open_at_ms else None


def _anchor_in_this_boot(row: PowerInterval, read: PowerRead | None, now: Moment) -> None:
    """Count on from here by the clock of this boot, which no one can set back."""
    anchor = meter.anchored(metered(row), read, now)
    row.anchor_utc_ms = anchor.utc_ms
    row.anchor_boot_ms, row.anchor_boot_id = anchor.boot_ms, anchor.boot_id


def _see(row: PowerInterval, seen_to_ms: int, read: PowerRead | None) -> None:
    """Note how far it was seen, and what the platform's clock said to that."""
    row.seen_told_ms, row.seen_boot_id = meter.told_with(metered(row), seen_to_ms, read)
    row.seen_to_ms = max(row.seen_to_ms, seen_to_ms)


def _open_as(
    session: Session, instance: Instance, tariff: Tariff, step: meter.MeterStep, anchor: Moment
) -> PowerInterval:
    """A new running interval; what it says of its price is what is in force at its start."""
    assert step.open_at_ms is not None, "only a step that opens one"
    row = PowerInterval(
        instance_id=instance.id,
        job_id=instance.job_id,
        kind="running",
        price_micros_per_hour=price_micros(tariff, step.open_at_ms),
        quantum_s=tariff.quantum_s,
        tariff_json=tariff.to_json(),
        origin_ms=step.origin_ms,
        earliest_ms=meter.start_bound_ms(step, tariff),
    )
    return _add_interval(session, row, step.open_at_ms, anchor)


def _add_interval(
    session: Session, row: PowerInterval, started_ms: int, anchor: Moment
) -> PowerInterval:
    row.started_ms = row.metered_to_ms = started_ms
    row.anchor_utc_ms, row.anchor_boot_ms = anchor.utc_ms, anchor.boot_ms
    row.anchor_boot_id = anchor.boot_id
    row.seen_to_ms = anchor.utc_ms
    row.posted_micros = 0
    session.add(row)
    session.flush()
    return row


def _charge_to(
    session: Session, job: Job, row: PowerInterval, to_ms: int, now: Moment, zone: ZoneInfo
) -> None:
    owed = meter.owed_micros(metered(row), to_ms)
    lease = open_lease(session, job.id) or lease_of_double(session, job, row)
    place = Place(job.stage, job.phase or "setup")
    month = month_of(to_ms, zone)
    overrun = charge(session, job, row, lease, owed, to_ms, place, now.utc_ms, month)
    if overrun:
        _report_overrun(session, job, overrun, lease, now)


def _report_overrun(
    session: Session, job: Job, overrun: int, lease: LeaseRow | None, now: Moment
) -> None:
    why = "no lease was open" if lease is None else "the lease did not cover it"
    text = f"{yuan_text(overrun)} yuan were charged that nothing had reserved: {why}"
    add_event(session, job.id, now.utc_ms, "overrun", text, {"micros": overrun})


def close_interval(
    session: Session,
    job: Job,
    row: PowerInterval,
    ended_ms: int,
    now: Moment,
    zone: ZoneInfo,
    why: str = ASSUMED,
) -> None:
    """End the interval; what was charged beyond its true end is corrected, saying why."""
    owed = meter.owed_micros(metered(row), ended_ms)
    if owed >= row.posted_micros:
        _charge_to(session, job, row, ended_ms, now, zone)
    else:
        adjust(session, job, row, owed, why, now.utc_ms, month_of(ended_ms, zone))
    row.ended_ms = ended_ms


def _reprice(
    session: Session,
    job: Job,
    row: PowerInterval,
    new: Tariff,
    read: PowerRead | None,
    now: Moment,
    zone: ZoneInfo,
) -> PowerInterval:
    """Go on under the terms, where they are new, from when they are taken to have come."""
    open_now = metered(row)
    new = terms.terms_of(open_now, new, read)
    if same_terms(open_now.tariff, new, row.metered_to_ms):
        return row
    at_ms = terms.change_at_ms(open_now, new, read, now)
    if at_ms is None:
        return row
    row = _turn(session, job, row, at_ms, now, zone)
    tariff = repriced(open_now.tariff, new, at_ms)
    return _cut(session, job, row, at_ms, tariff, now, zone)


def _turn(
    session: Session, job: Job, row: PowerInterval, to_ms: int, now: Moment, zone: ZoneInfo
) -> PowerInterval:
    """The interval cut wherever, up to `to_ms`, its own tariff has another price; the last part."""
    open_now = metered(row)
    for at_ms in meter.turns_ms(open_now, to_ms):
        row = _cut(session, job, row, at_ms, open_now.tariff, now, zone)
    return row


def _cut(
    session: Session,
    job: Job,
    row: PowerInterval,
    at_ms: int,
    tariff: Tariff,
    now: Moment,
    zone: ZoneInfo,
) -> PowerInterval:
    """Close the interval and open its next part, which has another price and counts on."""
    close_interval(session, job, row, at_ms, now, zone, REPRICED)
    part = PowerInterval(
        instance_id=row.instance_id,
        job_id=row.job_id,
        kind="running",
        price_micros_per_hour=price_micros(tariff, at_ms),
        quantum_s=tariff.quantum_s,
        tariff_json=tariff.to_json(),
        origin_ms=metered(row).rent_ms,
        earliest_ms=row.earliest_ms,
    )
    anchor = Moment(row.anchor_utc_ms, row.anchor_boot_ms, row.anchor_boot_id)
    seen_to_ms = max(row.seen_to_ms, at_ms)
    part = _add_interval(session, part, at_ms, anchor)
    part.seen_to_ms, part.seen_boot_id = seen_to_ms, row.seen_boot_id
    if row.seen_told_ms is not None:  # the two are of one instant
        part.seen_told_ms = row.seen_told_ms + seen_to_ms - row.seen_to_ms
    return part


def _carry_free_time(instance: Instance, row: PowerInterval, ended_ms: int) -> None:
    """What the interval left of free or prepaid time is the next one's, until the platform says."""
    tariff = tariff_of(row)
    if tariff.free_s:
        left_s = free_left_s(tariff, metered(row).rent_ms, ended_ms)
        set_tariff(instance, replace(tariff_of(instance), free_s=left_s))


def meter_disk(
    session: Session,
    job: Job,
    instance: Instance,
    view: InstanceView | None,
    now: Moment,
    zone: ZoneInfo,
) -> None:
    """Charge the disk, from creation to release, against the part of the cap held for it."""
    if instance.paused_micros_per_hour == 0 or view is None:
        return
    row = open_interval(session, instance.id, "disk")
    if row is None:
        begun_ms = view.read.begun.utc_ms
        since = (instance.created_ms or begun_ms) - meter.clock_ahead_ms(view.read)
        if since > view.read.begun.utc_ms:  # its clock and ours disagree: the longer counts
            since = instance.started_call_ms or view.read.begun.utc_ms
        row = _open_disk(session, instance, since, view.read.begun)
    _anchor_in_this_boot(row, view.read, now)
    to_ms = max(meter.reach_ms(metered(row), view.read.begun), row.metered_to_ms)
    owed = paused_micros(disk_tariff_of(row), to_ms - row.started_ms)
    _see(row, to_ms, view.read)
    place = Place(job.stage, "disk")
    charge(session, job, row, None, owed, to_ms, place, now.utc_ms, month_of(to_ms, zone))


def _open_disk(
    session: Session, instance: Instance, since_ms: int, anchor: Moment
) -> PowerInterval:
    tariff = tariff_of(instance)
    row = PowerInterval(
        instance_id=instance.id,
        job_id=instance.job_id,
        kind="disk",
        price_micros_per_hour=tariff.paused_micros_per_hour,
        quantum_s=tariff.paused_quantum_s,
        tariff_json=tariff.to_json(),
    )
    return _add_interval(session, row, since_ms, anchor)


def open_taken_over(session: Session, instance: Instance, read: PowerRead) -> None:
    """Meter an adopted instance that is on from the read that found it so, whatever comes next."""
    tariff = tariff_of(instance)
    step = meter.step(None, read, read.begun, None, 0)
    if step.open_at_ms is not None:
        _open_as(session, instance, tariff, step, read.begun)


def close_running(
    session: Session, job: Job, instance: Instance, now: Moment, zone: ZoneInfo
) -> None:
    """End the running interval of an instance that was given back while it was on."""
    row = open_interval(session, instance.id, "running")
    if row is None:
        return
    _anchor_in_this_boot(row, None, now)
    ended_ms = max(meter.reach_ms(metered(row), now), row.seen_to_ms)
    row = _turn(session, job, row, ended_ms, now, zone)
    close_interval(session, job, row, ended_ms, now, zone)


def close_disk(session: Session, instance: Instance, at_ms: int) -> None:
    """End the disk's interval once the instance was given back."""
    row = open_interval(session, instance.id, "disk")
    if row is not None:
        row.ended_ms = max(at_ms, row.metered_to_ms)
