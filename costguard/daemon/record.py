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
from costguard.core.money import yuan_text
from costguard.core.tariff import list_price_micros
from costguard.daemon import steps_lost
from costguard.daemon.metering import ASSUME_AFTER_POLLS, meter_disk, meter_running
from costguard.daemon.preparing import record_preparing
from costguard.daemon.told_end import tell_end
from costguard.daemon.unseen import before_look
from costguard.store.events import add_event
from costguard.store.models import (
    Artifact,
    Instance,
    Job,
    Telemetry,
)
from costguard.store.reads import add_read
from costguard.store.tariffs import set_tariff, tariff_of
from costguard.store.visits import open_visit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.daemon.memory import JobMemory
    from costguard.providers.base import InstanceView, ProviderFacts

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
        meter_running(
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
        meter_disk(session, job, instance, view, now, zone)


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
