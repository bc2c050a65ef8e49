"""Record: what was seen, and what it cost, in one transaction.

Facts are always recorded, past a cap and without a lease too; only grants are refused.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from costguard.core import meter
from costguard.core.calendar import month_of
from costguard.core.moment import Moment
from costguard.core.money import yuan_text
from costguard.core.tariff import (
    Tariff,
    free_left_s,
    list_price_micros,
    paused_micros,
    price_micros,
    repriced,
    same_terms,
)
from costguard.daemon import steps_lost
from costguard.daemon.load import (
    metered,
    open_interval,
    open_lease,
)
from costguard.daemon.preparing import record_preparing
from costguard.daemon.told_end import tell_end
from costguard.daemon.unseen import Before, before_look, last_end_ms, ran_unseen, tell_assumed
from costguard.store.attest import weigh
from costguard.store.events import add_event
from costguard.store.ledger import Place, adjust, charge
from costguard.store.models import (
    Artifact,
    Instance,
    Job,
    LeaseRow,
    PowerInterval,
    Telemetry,
)
from costguard.store.reads import add_read
from costguard.store.tariffs import disk_tariff_of, set_tariff, tariff_of
from costguard.store.visits import open_visit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

    from costguard.core.power import PowerRead
    from costguard.daemon.memory import JobMemory
    from costguard.providers.base import InstanceView, ProviderFacts

# After this many missed polls without an answer the meter is taken to run on.
ASSUME_AFTER_POLLS = 30
ASSUMED = "the platform's stop was earlier than assumed while it did not answer"
REPRICED = "another price was in force from earlier on than had been charged"

# Built once: to put a statement together takes longer than to carry it out.
_ADD_TELEMETRY = insert(Telemetry).on_conflict_do_nothing()


def record_pass(
    session: Session,
    job: Job,
    instance: Instance | None,
    memory: JobMemory,
    now: Moment,
    zone: ZoneInfo,
    facts: ProviderFacts,
) -> None:
    """Everything that this pass has seen: messages of the agent, the power read, the charges.

    The caller lets no query flush by itself, which would be one update of the same row after the
    other: whatever asks the database for what was changed here flushes first.
    """
    for message in memory.unsaved:
        _record_message(session, job, message, now)
    record_preparing(session, job, memory, now)
    visit = open_visit(session, job.id)
    if visit is not None:
        job.phase = visit.purpose
    if instance is None or instance.provider_id is None or instance.released_ms is not None:
        return  # what was given back, or is another job's by now, costs this one nothing more
    view = memory.fresh
    if memory.absent_since is None:
        instance.absent_since_ms = None
    elif instance.absent_since_ms is None:
        instance.absent_since_ms = memory.absent_since.utc_ms
    if view is not None or memory.asked:
        before = before_look(session, instance, memory, facts, now)
        if view is not None:
            _record_read(session, instance, view, memory)
        read = memory.gone if view is None else view.read
        if memory.gone is not None:
            instance.power = memory.gone.power.value
        assume_after_ms = facts.poll_interval_ms * ASSUME_AFTER_POLLS
        _meter_running(
            session,
            job,
            instance,
            meter.in_our_time(read),
            now,
            zone,
            before,
            memory,
            assume_after_ms,
        )
        _meter_disk(session, job, instance, view, now, zone)


def _record_message(session: Session, job: Job, message: Mapping[str, Any], now: Moment) -> None:
    """One numbered record of the agent's journal: stored once, whatever is sent again."""
    seq = message.get("seq")
    if not isinstance(seq, int) or seq <= job.last_seq:
        return
    kind = str(message["t"])
    text = json.dumps({k: v for k, v in message.items() if k != "received_boot_ms"})
    row = {
        "job_id": job.id,
        "stage": job.stage,
        "seq": seq,
        "kind": kind,
        "at_ms": message.get("at_ms", now.utc_ms),
        "received_ms": now.utc_ms,
        "data_json": text,
    }
    session.connection().execute(_ADD_TELEMETRY, row)
    job.last_seq = seq
    if kind == "hello":
        _record_gpu(session, job, message, now)
    elif kind == "started":
        job.launched_ms = message.get("at_ms", now.utc_ms)
        what, lost = steps_lost.at_start(session, job, message)
        add_event(session, job.id, now.utc_ms, "training_started", what, {"steps_lost": lost})
    elif kind == "checkpoint":
        _record_artifact(session, job, message, now)
    elif kind == "exit":
        job.exit_json = text
        if message.get("artifact"):
            _record_artifact(session, job, message["artifact"], now)
        tell_end(session, job, message, now.utc_ms)


def _record_gpu(session: Session, job: Job, hello: Mapping[str, Any], now: Moment) -> None:
    """Say so where NVML finds no GPU: the idle guard then has the CPU time alone to go by."""
    nvml = hello.get("nvml")
    if isinstance(nvml, dict) and nvml.get("state") != "ok":
        text = "NVML finds no GPU on the instance: idle is judged by the job's CPU time alone"
        add_event(session, job.id, now.utc_ms, "no_gpu", text, nvml)


def _record_artifact(session: Session, job: Job, found: Mapping[str, Any], now: Moment) -> None:
    name = str(found["name"])
    query = select(Artifact).where(
        Artifact.job_id == job.id, Artifact.stage == job.stage, Artifact.name == name
    )
    row = session.scalars(query).one_or_none()
    files = json.dumps(found.get("files") or [])
    if row is not None:
        if row.files_json != files:
            row.pulled_ms = row.path = None  # another attempt made it anew
        row.complete, row.files_json = bool(found.get("complete")), files
        session.flush()
        return
    session.add(
        Artifact(
            job_id=job.id,
            stage=job.stage,
            name=name,
            kind=str(found.get("kind", "checkpoint")),
            step=int(found.get("step") or 0),
            complete=bool(found.get("complete")),
            files_json=files,
            seen_ms=now.utc_ms,
        )
    )
    session.flush()


def _record_read(
    session: Session, instance: Instance, view: InstanceView, memory: JobMemory
) -> None:
    read = view.read
    instance.power = read.power.value
    instance.was_on = memory.calls.was_on
    if not memory.keeps_timer:
        instance.timer_at_ms = read.timer_at_ms
    instance.created_ms = instance.created_ms or view.created_ms
    instance.gpu = view.gpu or instance.gpu
    if view.ssh is not None:
        if view.ssh.host_keys:
            instance.host_key = "\n".join(view.ssh.host_keys)
        instance.work_dir = view.ssh.work_dir
    add_read(session, instance.id, read)
    _record_price(session, instance, view)


def _record_price(session: Session, instance: Instance, view: InstanceView) -> None:
    """Keep the rule that the platform bills by now, and say so where its list price is another.

    Free time that was used up here is not had again, whatever a platform goes on offering.
    """
    at_ms = view.read.begun.utc_ms
    known = tariff_of(instance)
    old, price = list_price_micros(known, at_ms), list_price_micros(view.tariff, at_ms)
    free_s = min(known.free_s, view.tariff.free_s)
    set_tariff(instance, replace(view.tariff, free_s=free_s))
    if price == old:
        return
    text = f"the price went from {yuan_text(old)} to {yuan_text(price)} yuan an hour"
    add_event(session, instance.job_id, at_ms, "price_changed", text)


def _meter_running(
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
    if row is not None:
        _anchor_in_this_boot(row, now)
    if row is not None and not same_terms(tariff_of(row), tariff_of(instance), row.metered_to_ms):
        row = _reprice(session, job, row, tariff_of(instance), now, zone)
    if row is None and _says_nothing_new(session, instance, read):
        read = None
    open_now = None if row is None else metered(row)
    ran = row is None and ran_unseen(session, instance, read, before, memory)
    step = meter.step(
        open_now,
        read,
        now,
        before.earliest_ms,
        assume_after_ms,
        may_have_run=ran,
        ends_by_ms=before.ends_by_ms,
    )
    if step.open_at_ms is not None and read is not None:
        tariff = meter.opening_tariff(before.tariff, tariff_of(instance), read.begun.utc_ms)
        origin_ms = step.origin_ms or _goes_on_from_ms(session, instance, told, step.open_at_ms)
        row = _open_as(session, instance, tariff, replace(step, origin_ms=origin_ms), read.begun)
        tell_assumed(session, job, step, now, ran=ran)
    if row is None:
        return
    if step.seen_to_ms is not None:
        row.seen_to_ms = max(row.seen_to_ms, step.seen_to_ms)
    if step.meter_to_ms is not None:
        row = _turn(session, job, row, step.meter_to_ms, now, zone)
        _charge_to(session, job, row, step.meter_to_ms, now, zone)
    if step.close_at_ms is not None:
        row = _turn(session, job, row, step.close_at_ms, now, zone)
        close_interval(session, job, row, step.close_at_ms, now, zone)
        _carry_free_time(instance, row, step.close_at_ms)


def _goes_on_from_ms(
    session: Session, instance: Instance, read: PowerRead | None, open_at_ms: int
) -> int | None:
    """When the rent began that this interval only goes on with: one had been closed too early."""
    since_ms = None if read is None else read.charged_since_ms
    if since_ms is None or since_ms >= open_at_ms:
        return None
    return since_ms if last_end_ms(session, instance) == open_at_ms else None


def _says_nothing_new(session: Session, instance: Instance, read: PowerRead | None) -> bool:
    """Off when last seen, not started since, and told nothing: on only once it is seen on."""
    if read is None or not meter.shows_nothing(read):
        return False
    ended_ms = last_end_ms(session, instance)
    return ended_ms is not None and ended_ms >= (instance.started_call_ms or 0)


def _anchor_in_this_boot(row: PowerInterval, now: Moment) -> None:
    """Count on from here by the clock of this boot, which no one can set back."""
    if row.anchor_boot_id != now.boot_id:
        row.anchor_utc_ms = meter.reach_ms(metered(row), now)
        row.anchor_boot_ms, row.anchor_boot_id = now.boot_ms, now.boot_id


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
    lease = open_lease(session, job.id)
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
    session: Session, job: Job, row: PowerInterval, new: Tariff, now: Moment, zone: ZoneInfo
) -> PowerInterval:
    """Go on under the new terms from when they are taken to have come."""
    open_now = metered(row)
    at_ms = meter.change_at_ms(open_now, new, now)
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
    part.seen_to_ms = seen_to_ms
    return part


def _carry_free_time(instance: Instance, row: PowerInterval, ended_ms: int) -> None:
    """What the interval left of free or prepaid time is the next one's, until the platform says."""
    tariff = tariff_of(row)
    if tariff.free_s:
        left_s = free_left_s(tariff, metered(row).rent_ms, ended_ms)
        set_tariff(instance, replace(tariff_of(instance), free_s=left_s))


def _meter_disk(
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
    _anchor_in_this_boot(row, now)
    to_ms = max(meter.reach_ms(metered(row), view.read.begun), row.metered_to_ms)
    owed = paused_micros(disk_tariff_of(row), to_ms - row.started_ms)
    row.seen_to_ms = to_ms
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
    _anchor_in_this_boot(row, now)
    ended_ms = max(meter.reach_ms(metered(row), now), row.seen_to_ms)
    row = _turn(session, job, row, ended_ms, now, zone)
    close_interval(session, job, row, ended_ms, now, zone)


def close_disk(session: Session, instance: Instance, at_ms: int) -> None:
    """End the disk's interval once the instance was given back."""
    row = open_interval(session, instance.id, "disk")
    if row is not None:
        row.ended_ms = max(at_ms, row.metered_to_ms)
