"""`status`: one row a job, from what the daemon last wrote down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select

from costguard.core.money import yuan_text
from costguard.core.tariff import paid_until_ms
from costguard.report.amounts import spent_micros
from costguard.report.figures import time_text
from costguard.store.drilled import timer_fires
from costguard.store.ledger import doubles_by_job, pending_by_job, posted_by_instance
from costguard.store.models import (
    BY_HAND,
    Artifact,
    Instance,
    Job,
    LeaseRow,
    PowerInterval,
    Telemetry,
)
from costguard.store.tariffs import tariff_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

STATUS_SCHEMA = "costguard.status/1"
CADENCE_ROWS = 50
FORECAST_KEYS = (
    "eta_s",
    "forecast_yuan",
    "forecast_low_yuan",
    "forecast_high_yuan",
    "bites_at_step",
    "evaluations_known",
)


# Made once: with hundreds of jobs it is putting these together that would take the time.
_LATEST = (
    select(Telemetry.data_json)
    .where(
        Telemetry.job_id == bindparam("job"),
        Telemetry.stage == bindparam("stage"),
        Telemetry.kind == bindparam("kind"),
    )
    .order_by(Telemetry.seq.desc())
    .limit(bindparam("count"))
)
_RECEIVED = (
    select(Telemetry.received_ms)
    .where(Telemetry.job_id == bindparam("job"))
    .order_by(Telemetry.stage.desc(), Telemetry.seq.desc())
    .limit(1)
)
_CHECKPOINT = (
    select(Artifact)
    .where(Artifact.job_id == bindparam("job"), Artifact.stage == bindparam("stage"))
    .order_by(Artifact.step.desc(), Artifact.id.desc())
    .limit(1)
)


def status_document(
    session: Session, now_ms: int, daemon_pid: int | None, job_name: str | None = None
) -> dict[str, Any]:
    """The status of one job, or of all, newest first."""
    query = select(Job).order_by(Job.id.desc())
    if job_name is not None:
        query = query.where(Job.name == job_name).limit(1)
    jobs = session.scalars(query).all()
    shelf = Shelf.of(session, jobs)
    return {
        "schema": STATUS_SCHEMA,
        "as_of": time_text(now_ms),
        "daemon": {"running": daemon_pid is not None, "pid": daemon_pid},
        "jobs": [
            job_row(session, job, shelf, now_ms, daemon_runs=daemon_pid is not None) for job in jobs
        ],
    }


@dataclass(frozen=True)
class Shelf:
    """What every job's row needs, fetched for all of them at once: hundreds of jobs are usual."""

    instances: dict[int, list[Instance]]  # by job, newest first
    leases: dict[int, LeaseRow]  # the open one, by job
    intervals: dict[int, PowerInterval]  # the open one of running, by instance
    spent: dict[int, int]  # micro-yuan, by job
    pending: dict[int, int]  # micro-yuan, by job
    doubles: dict[int, int]  # the same: what a second instance of its create call has used

    @classmethod
    def of(cls, session: Session, jobs: Sequence[Job]) -> Shelf:
        """The rows of these jobs."""
        ids = {job.id for job in jobs} if len(jobs) == 1 else None
        rented = select(Instance).order_by(Instance.id.desc())
        if ids is not None:
            rented = rented.where(Instance.job_id.in_(ids))
        instances: dict[int, list[Instance]] = {}
        for row in session.scalars(rented):
            instances.setdefault(row.job_id, []).append(row)
        leases = session.scalars(select(LeaseRow).where(LeaseRow.state == "open"))
        running = select(PowerInterval).where(
            PowerInterval.kind == "running", PowerInterval.ended_ms.is_(None)
        )
        posted = posted_by_instance(session, ids)
        return cls(
            instances=instances,
            leases={row.job_id: row for row in leases},
            intervals={row.instance_id: row for row in session.scalars(running)},
            spent={job: spent_micros(rows, posted) for job, rows in instances.items()},
            pending=pending_by_job(session),
            doubles=doubles_by_job(session),
        )


def job_row(
    session: Session, job: Job, shelf: Shelf, now_ms: int, *, daemon_runs: bool
) -> dict[str, Any]:
    """One job as `status` shows it."""
    rented = shelf.instances.get(job.id)
    instance = rented[0] if rented else None
    lease = shelf.leases.get(job.id)
    progress = latest(session, job, "progress", CADENCE_ROWS)
    last = progress[-1] if progress else {}
    forecast = _forecast(job)
    spent, pending = shelf.spent.get(job.id, 0), shelf.pending.get(job.id, 0)
    left = job.cap_micros - spent - pending - job.hold_micros - shelf.doubles.get(job.id, 0)
    return {
        "job": job.name,
        "state": job.state,
        "breach": job.breach,
        "pause_reason": job.pause_reason,
        "stage": job.stage,
        "phase": job.phase,
        "step": last.get("step"),
        "total_steps": last.get("total_steps"),
        "loss": last.get("loss"),
        **forecast,
        "instance": None if instance is None else _instance(instance, shelf),
        "budget": {
            "cap_yuan": yuan_text(job.cap_micros),
            "spent_yuan": yuan_text(spent),
            "reserved_yuan": yuan_text(pending),
            "left_yuan": yuan_text(left),
            "worst_case_yuan": yuan_text(spent + pending + job.hold_micros),
        },
        "lease_expires_at": None if lease is None else time_text(lease.armed_end_utc_ms),
        "enforcers": _enforcers(session, instance, lease, now_ms, daemon_runs=daemon_runs),
        "telemetry": _telemetry(session, job, now_ms),
        "last_checkpoint": _last_checkpoint(session, job, now_ms),
    }


def latest(session: Session, job: Job, kind: str, count: int) -> list[dict[str, Any]]:
    """The newest `count` journal records of a kind in the job's present stage, oldest first."""
    asked = {"job": job.id, "stage": job.stage, "kind": kind, "count": count}
    texts = session.scalars(_LATEST, asked).all()
    return [json.loads(text) for text in reversed(texts)]


def _forecast(job: Job) -> dict[str, Any]:
    """The daemon's last forecast while the job trains; every figure null where there is none."""
    if job.state != "training" or job.forecast_json is None:
        return dict.fromkeys(FORECAST_KEYS)
    known: dict[str, Any] = json.loads(job.forecast_json)
    low, likely, high = (yuan_text(micros) for micros in known["total_micros"])
    return {
        "eta_s": known["eta_ms"] // 1000,
        "forecast_yuan": likely,
        "forecast_low_yuan": low,
        "forecast_high_yuan": high,
        "bites_at_step": known["bites_at_step"],
        "evaluations_known": known.get("evaluations"),
    }


def _instance(row: Instance, shelf: Shelf) -> dict[str, Any]:
    interval = shelf.intervals.get(row.id)
    paid_until = None
    if interval is not None:
        began_ms = interval.started_ms if interval.origin_ms is None else interval.origin_ms
        paid_until = paid_until_ms(tariff_of(interval), began_ms, interval.metered_to_ms)
    return {
        "id": row.provider_id,
        "provider": row.provider,
        "power": "released" if row.released_ms is not None else row.power,
        "gpu": row.gpu,
        "price_yuan_per_hour": yuan_text(row.price_micros_per_hour),
        "paid_until": time_text(paid_until),
    }


def _enforcers(
    session: Session,
    instance: Instance | None,
    lease: LeaseRow | None,
    now_ms: int,
    *,
    daemon_runs: bool,
) -> list[dict[str, Any]]:
    """Who stops the machine at the lease's end, until when, and whether that was proven."""
    runs = instance is not None and lease is not None and instance.released_ms is None
    timer = instance.timer_at_ms if instance is not None and runs else None
    armed_until = lease.armed_end_utc_ms if lease is not None and runs else None
    # Where only a person can stop the meter, the daemon may call as often as it likes.
    can_stop = instance is None or instance.guest_stop != BY_HAND
    # Whatever it runs: a training, one that has ended, or nothing but a visitor's stay.
    granted = instance.agent_until_ms if instance is not None and runs else None
    granted = None if granted is None or granted <= now_ms else granted
    switches_off = instance is not None and instance.guest_stop in ("proven", "given", "unproven")
    fires = instance is not None and timer_fires(session, instance.provider)
    return [
        {
            "kind": "daemon",
            "armed": daemon_runs and runs and can_stop,
            "until": time_text(armed_until) if can_stop else None,
            "proven": can_stop,
        },
        {
            "kind": "platform_timer",
            "armed": timer is not None and timer > now_ms,
            "until": time_text(timer),
            # Read back from the platform, and seen to fire on this account. A deadline beyond the
            # lease is none of ours to move: it was set at create and is never read again.
            "proven": fires
            and timer is not None
            and lease is not None
            and timer <= _last_ms(lease),
        },
        {
            "kind": "agent",
            # Without a command it saves and ends the training, and the meter runs on.
            "armed": switches_off and granted is not None,
            "until": time_text(granted) if switches_off else None,
            "proven": instance is not None and instance.guest_stop == "proven",
        },
    ]


def _last_ms(lease: LeaseRow) -> int:
    """When the meter has stopped at the latest under this lease (UTC ms): its timer is within."""
    return lease.end_utc_ms + lease.latency_ms


def _telemetry(session: Session, job: Job, now_ms: int) -> dict[str, Any]:
    received = session.scalars(_RECEIVED, {"job": job.id}).first()
    windows = latest(session, job, "gpu", 1)
    cards = windows[-1].get("cards") or [] if windows else []
    utils = [card["util_mean"] for card in cards if card.get("util_mean") is not None]
    used = [
        100 * card["mem_used_mib"] / card["mem_total_mib"]
        for card in cards
        if card.get("mem_used_mib") is not None and card.get("mem_total_mib")
    ]
    return {
        "age_s": None if received is None else max(now_ms - received, 0) // 1000,
        "gpu_util_percent": round(max(utils)) if utils else None,
        "gpu_memory_percent": round(max(used)) if used else None,
    }


def _last_checkpoint(session: Session, job: Job, now_ms: int) -> dict[str, Any] | None:
    row = session.scalars(_CHECKPOINT, {"job": job.id, "stage": job.stage}).first()
    if row is None:
        return None
    return {
        "step": row.step,
        "complete": row.complete,
        "age_s": max(now_ms - row.seen_ms, 0) // 1000,
    }
