"""Tier 1's meter: what a look at a machine does to its power interval and to the books.

`daemon/metering.py` and `daemon/unseen.py` do the same on the database.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.core import meter, terms
from costguard.core.moment import has_passed
from costguard.core.tariff import paused_micros, repriced, same_terms
from costguard.daemon.metering import ASSUME_AFTER_POLLS

if TYPE_CHECKING:
    from costguard.core.meter import Metered
    from costguard.core.moment import Moment
    from costguard.core.power import PowerRead
    from costguard.sim.lean import LeanHost, LeanJob


def _called_ms(host: LeanHost, job: LeanJob, now: Moment) -> int | None:
    return None if job.started_call is None else meter.as_of_ms(job.started_call, now)


def _earliest_ms(
    host: LeanHost, job: LeanJob, now: Moment, *, is_told: bool = False, was_called: bool = True
) -> int | None:
    """Before when rent cannot have begun; by the books alone, where the platform tells when."""
    looks = (job.seen_off, None if is_told else job.memory.off_before)
    seen = [at for at in looks if at is not None]
    off_ms = max((meter.as_of_ms(at, now) for at in seen), default=None)
    ended_ms, cache_age_ms = _ended_ms(job, now), host.facts.cache_age_ms
    called_ms = _called_ms(host, job, now) if was_called else None
    return meter.earliest_start_ms(called_ms, ended_ms, off_ms, cache_age_ms)


def _ended_ms(job: LeanJob, now: Moment) -> int | None:
    """The end of the latest interval; None where a wall clock told it that was set back since."""
    if job.ended is None:
        return None
    ended_ms = job.ended.utc_ms
    if ended_ms > now.utc_ms:  # it was set back since
        ended_ms = meter.as_of_ms(job.ended, now)
    return ended_ms if ended_ms <= now.utc_ms else None


def _ran_unseen(host: LeanHost, job: LeanJob, now: Moment) -> bool:
    """Whether it may have run before this pass's read, which shows it off."""
    called_ms, calls = _called_ms(host, job, now), job.memory.calls
    if host.facts.tells_meter_end or job.memory.shown_on:
        return not host.facts.tells_meter_end
    if called_ms is None or job.stopped_seen or not job.was_started:
        return False
    ended_ms, earliest_ms = _ended_ms(job, now), _earliest_ms(host, job, now)
    if ended_ms is not None and ended_ms >= called_ms:
        return False
    read = job.memory.gone if job.memory.fresh is None else job.memory.fresh.read
    apart_ms = meter.looks_apart_ms(host.facts.poll_interval_ms, host.facts.cache_age_ms)
    lease = job.purse.lease
    is_over = lease is not None and has_passed(lease.end, now)
    was_ended = calls.was_on or calls.stop_calls > 0 or is_over
    ends_it = was_ended and earliest_ms == called_ms
    return meter.fits_unseen(read, earliest_ms, apart_ms, ends_it=ends_it)


def _ends_by_ms(host: LeanHost, job: LeanJob, now: Moment, *, was_seen: bool) -> int | None:
    """By when rent had ended that nobody saw; or that was seen on, and is timed to end."""
    found = [_enforced_by_ms(host, job, now, was_seen=was_seen)]
    if job.memory.off_after is not None:
        found.append(meter.as_of_ms(job.memory.off_after, now))
    return min((at for at in found if at is not None), default=None)


def _enforced_by_ms(host: LeanHost, job: LeanJob, now: Moment, *, was_seen: bool) -> int | None:
    facts, lease = host.facts, job.purse.lease
    if facts.timer_min_lead_ms is None and not facts.arms_timer_at_create:
        return None
    if lease is not None:
        if was_seen and lease.armed_ms == 0:
            return None
        latency_ms = host.platform.latency_ms(job.spec.runs[0].save_grace_ms)
        return meter.as_of_ms(lease.end, now) + latency_ms
    if job.made_to_end_ms is None or not facts.arms_timer_at_create:
        return None
    return job.made_to_end_ms + facts.timer_lateness_ms + facts.stop_latency_ms


def _shown(host: LeanHost, job: LeanJob, now: Moment) -> PowerRead | None:
    """What this pass's answer says of the power, the open interval brought up to its terms."""
    view, read = job.memory.fresh, job.memory.gone
    if view is not None:
        read, job.power, job.tariff = view.read, view.read.power, view.tariff
        if not meter.shows_nothing(read):
            job.seen_off = None if read.power.may_charge else read.begun
    if job.interval is not None:
        anchor = meter.anchored(job.interval, read, now)
        if anchor is not job.interval.anchor:
            job.interval = replace(job.interval, anchor=anchor)
    if job.interval is not None:
        job.interval = _repriced(host, job, job.interval, read, now)
    return read


def run_meter(host: LeanHost, job: LeanJob, now: Moment) -> None:
    """Charge what this pass's look shows to have run."""
    view = job.memory.fresh
    is_told = view is not None and view.read.charged_since_ms is not None
    earliest_ms = _earliest_ms(host, job, now, is_told=is_told)
    rested_ms = _earliest_ms(host, job, now, is_told=True, was_called=False)
    known, ran = job.tariff, _ran_unseen(host, job, now)
    shown = _shown(host, job, now)
    read = meter.in_our_time(shown)
    if job.interval is None and (
        meter.tells_nothing_new(read, rested_ms, _called_ms(host, job, now))
        or meter.is_of_before(shown, job.ended_told_ms)
    ):
        read = None
    earliest_ms = meter.told_start_ms(read, earliest_ms, rested_ms, job.ended_told_ms)
    assume_ms = host.facts.poll_interval_ms * ASSUME_AFTER_POLLS
    ends_by_ms = _ends_by_ms(host, job, now, was_seen=job.interval is not None)
    if job.interval is not None and read is not None:
        ended_ms = meter.ended_before_ms(job.interval, read, now, ends_by_ms)
        if ended_ms is not None:  # what the read tells of is another rent, which began since
            was_there = ended_ms > job.interval.started_ms
            _close(host, job, job.interval, ended_ms)
            earliest_ms = max(earliest_ms or 0, ended_ms) if was_there else earliest_ms
    step = meter.step(
        job.interval, read, now, earliest_ms, assume_ms, may_have_run=ran, ends_by_ms=ends_by_ms
    )
    if step.open_at_ms is not None and read is not None and job.tariff is not None:
        told = job.tariff
        tariff = terms.opening_tariff(known or told, told, read.begun.utc_ms)
        tariff = terms.dearest_least(tariff, read, step)
        host.books_kept.parts += 1
        job.interval = meter.Metered(
            id=host.books_kept.parts,
            started_ms=step.open_at_ms,
            anchor=read.begun,
            seen_to_ms=read.begun.utc_ms,
            metered_to_ms=step.open_at_ms,
            posted_micros=0,
            tariff=tariff,
            earliest_ms=step.earliest_ms,
            origin_ms=step.origin_ms,
        )
    if job.interval is not None:
        _take(host, job, job.interval, step, read, now)
    if view is not None:
        created_ms = (view.created_ms or 0) - meter.clock_ahead_ms(view.read)
        _meter_disk(host, job, view.read, created_ms)


def _take(
    host: LeanHost,
    job: LeanJob,
    interval: Metered,
    step: meter.MeterStep,
    read: PowerRead | None,
    now: Moment,
) -> None:
    if step.seen_to_ms is not None:
        job.interval = interval = _seen(interval, step.seen_to_ms, read)
    if step.meter_to_ms is not None:
        interval = _charge_to(host, job, interval, step.meter_to_ms)
    if step.close_at_ms is not None:
        if step.open_at_ms is not None:
            told_ms = meter.told_of_ms(read, step.close_at_ms)
            interval = replace(interval, seen_told_ms=told_ms, seen_to_ms=step.close_at_ms)
        _close(host, job, interval, step.close_at_ms)
    elif step.open_at_ms is not None:  # it opened under the dearer terms
        job.interval = _repriced(host, job, interval, read, now)


def end_interval(host: LeanHost, job: LeanJob) -> None:
    """It was given back while it was on."""
    if job.interval is not None:
        now = host.world.clock.now()
        ended_ms = max(meter.reach_ms(job.interval, now), job.interval.seen_to_ms)
        _close(host, job, job.interval, ended_ms)


def _close(host: LeanHost, job: LeanJob, interval: Metered, ended_ms: int) -> None:
    _charge_to(host, job, interval, ended_ms, close=True)
    job.interval, job.ended = None, interval.anchor.plus_ms(ended_ms - interval.anchor.utc_ms)
    job.ended_told_ms = interval.seen_told_ms
    if job.ended_told_ms is not None:
        job.ended_told_ms += ended_ms - interval.seen_to_ms


def _repriced(
    host: LeanHost, job: LeanJob, open_now: Metered, read: PowerRead | None, now: Moment
) -> Metered:
    """The interval under the terms in force now: its next part where they have changed."""
    if job.tariff is None:
        return open_now
    new = terms.terms_of(open_now, job.tariff, read)
    if new is open_now.tariff or same_terms(open_now.tariff, new, open_now.metered_to_ms):
        return open_now
    at_ms = terms.change_at_ms(open_now, new, read, now)
    if at_ms is None:
        return open_now
    _charge_to(host, job, open_now, at_ms, close=True)
    seen_to_ms, seen_told_ms = max(open_now.seen_to_ms, at_ms), open_now.seen_told_ms
    if seen_told_ms is not None:  # the two are of one instant
        seen_told_ms += seen_to_ms - open_now.seen_to_ms
    return replace(
        open_now,
        started_ms=at_ms,
        seen_to_ms=seen_to_ms,
        seen_told_ms=seen_told_ms,
        metered_to_ms=at_ms,
        posted_micros=0,
        tariff=repriced(open_now.tariff, new, at_ms),
        origin_ms=open_now.rent_ms,
    )


def _charge_to(
    host: LeanHost, job: LeanJob, interval: Metered, to_ms: int, *, close: bool = False
) -> Metered:
    owed = meter.owed_micros(interval, to_ms)
    amount = owed - interval.posted_micros
    if amount > 0:
        maker = None if job.maker is None else host.jobs[job.maker].purse
        host.books_kept.charge(job.purse, amount, interval.id, maker=maker)
    elif amount < 0 and close:
        host.books_kept.adjust(job.purse, amount, interval.id)
    else:
        amount = 0
    job.posted_by_machine += amount
    reached_ms = max(interval.metered_to_ms, to_ms)
    posted = interval.posted_micros + amount
    job.interval = replace(interval, metered_to_ms=reached_ms, posted_micros=posted)
    return job.interval


def _meter_disk(host: LeanHost, job: LeanJob, read: PowerRead, created_ms: int) -> None:
    """The disk from creation to release, against the part of the cap held for it."""
    if job.tariff is None or job.tariff.paused_micros_per_hour == 0:
        return
    begun = read.begun
    if created_ms > begun.utc_ms and job.started_call is not None:
        created_ms = job.started_call.utc_ms  # its clock and ours disagree
    disk = job.disk or meter.Metered(0, created_ms, begun, begun.utc_ms, created_ms, 0, job.tariff)
    disk = replace(disk, anchor=meter.anchored(disk, read, begun))
    to_ms = meter.reach_ms(disk, begun)
    owed = paused_micros(job.tariff, to_ms - disk.started_ms)
    if owed > disk.posted_micros:
        host.books_kept.charge(job.purse, owed - disk.posted_micros, 0, disk=True)
        job.posted_by_machine += owed - disk.posted_micros
    disk = _seen(disk, to_ms, read)
    job.disk = replace(disk, posted_micros=max(owed, disk.posted_micros))


def _seen(interval: Metered, seen_to_ms: int, read: PowerRead | None) -> Metered:
    """The interval with how far it was seen, and what the platform's clock said to that."""
    told_ms, boot_id = meter.told_with(interval, seen_to_ms, read)
    seen_ms = max(interval.seen_to_ms, seen_to_ms)
    return replace(interval, seen_to_ms=seen_ms, seen_told_ms=told_ms, seen_boot_id=boot_id)
