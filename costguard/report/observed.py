"""What earlier runs of a model have shown: how fast cards trained it, and what came beside it.

Figures of the platform on this machine stand for themselves alone: its cards are names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from costguard.core.spec import model_of
from costguard.report.amounts import billed_s
from costguard.store.models import Instance, Job, LedgerSum, PowerInterval, Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

LOCAL = "local"
JOBS_LOOKED_AT = 200
FINEST_QUANTUM_S = 60  # under a tariff by the hour, what was paid says nothing of how long it took
PART_OF: Mapping[str, str] = {
    "setup": "setup",
    "start": "setup",
    "install": "setup",
    "download": "download",
    "load": "load",
    "tokenise": "load",
    "compile": "load",
    "save": "save",
}
ONCE_A_STAGE = frozenset({"load", "save"})


@dataclass(frozen=True, slots=True)
class Observed:
    """Tokens a second by card, and by part of a job the seconds that each run took for it."""

    tokens_per_s: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, list[int]] = field(default_factory=dict)


def observed(session: Session, model: str, provider: str) -> Observed:
    """What the newest jobs of that model have shown: cards anywhere, parts on this platform."""
    jobs = {
        job_id: len(json.loads(text)["runs"])
        for job_id, text in session.execute(
            select(Job.id, Job.spec_json).order_by(Job.id.desc()).limit(JOBS_LOOKED_AT)
        )
        if model_of(text) == model
    }
    if not jobs:
        return Observed()
    return Observed(_speeds(session, jobs, provider), _seconds(session, jobs, provider))


def _speeds(session: Session, jobs: Mapping[int, int], provider: str) -> dict[str, int]:
    last = (
        select(Telemetry.job_id, Telemetry.stage, func.max(Telemetry.seq).label("seq"))
        .where(Telemetry.kind == "progress", Telemetry.job_id.in_(jobs))
        .group_by(Telemetry.job_id, Telemetry.stage)
        .subquery()
    )
    query = (
        select(Telemetry.data_json, Instance.gpu)
        .join(
            last,
            (Telemetry.job_id == last.c.job_id)
            & (Telemetry.stage == last.c.stage)
            & (Telemetry.seq == last.c.seq),
        )
        .join(Instance, Instance.job_id == Telemetry.job_id)
        .where((Instance.provider == LOCAL) == (provider == LOCAL))
    )
    seen: dict[str, list[float]] = {}
    for text, gpu in session.execute(query):
        data = json.loads(text)
        speed = data.get("session_tokens_per_s") or data.get("throughput")
        if gpu is not None and isinstance(speed, int | float) and speed > 0:
            seen.setdefault(gpu, []).append(speed)
    return {gpu: max(round(median(speeds)), 1) for gpu, speeds in seen.items()}


def _seconds(session: Session, jobs: Mapping[int, int], provider: str) -> dict[str, list[int]]:
    query = (
        select(
            LedgerSum.job_id,
            LedgerSum.phase,
            PowerInterval.price_micros_per_hour,
            func.sum(LedgerSum.amount_micros),
        )
        .join(PowerInterval, LedgerSum.interval_id == PowerInterval.id)
        .join(Instance, PowerInterval.instance_id == Instance.id)
        .where(
            LedgerSum.job_id.in_(jobs),
            LedgerSum.phase.in_(PART_OF),
            LedgerSum.kind == "charge",
            PowerInterval.kind == "running",
            PowerInterval.quantum_s <= FINEST_QUANTUM_S,
            Instance.provider == provider,
        )
        .group_by(LedgerSum.job_id, LedgerSum.phase, LedgerSum.interval_id)
    )
    by_job: dict[tuple[str, int], int] = {}
    for job_id, phase, price, amount in session.execute(query):
        key = (PART_OF[phase], job_id)
        by_job[key] = by_job.get(key, 0) + billed_s(amount, price)
    found: dict[str, list[int]] = {}
    for (part, job_id), took_s in by_job.items():
        times = jobs[job_id] if part in ONCE_A_STAGE else 1
        found.setdefault(part, []).append(-(-took_s // times))
    return found
