"""`explain`: why a job is where it is, what was saved, what it cost, what the figures advise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core.money import yuan_text
from costguard.report.advice import advice
from costguard.report.amounts import spent_micros
from costguard.report.figures import time_text
from costguard.report.lead_up import lead_up
from costguard.report.spend import idle_micros
from costguard.store.ledger import posted_by_instance
from costguard.store.models import Artifact, Event, Instance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from costguard.store.models import Job

HOURS_PER_DAY = 24
NEXT_STEPS: Mapping[str, str] = {
    "finished": "the adapter is in the artifacts folder; the paused disk costs until `release`",
    "budget": "raise the cap with `costguard budget set --job {job} YUAN`, or take what was saved",
    "idle": "look at the log for what the training was waiting for: `costguard logs {job}`",
    "stalled": "look at the last lines of the log: `costguard logs {job}`",
    "blind": "the line to the instance was lost; what was saved is on its disk",
    "failed": "read the end of the log: `costguard logs {job}`",
    "diverged": "lower the learning rate, or look at the data near that step",
    "platform": "look at the platform's console for this instance",
    "user": "go on with it: `costguard resume {job}`",
    "max_hours": "raise [guards] max_hours if the run was healthy",
}

NO_DISK = "the adapter is in the artifacts folder; the job has no disk any more that would cost"


def explain_document(session: Session, job: Job) -> dict[str, Any]:
    """The verdict with its evidence, the proof of the stop, and what to make of it."""
    verdicts = []
    if job.pause_reason is not None:
        verdicts.append(
            {
                "at": time_text(job.verdict_utc_ms),
                "guard": job.pause_reason,
                "text": job.verdict_text,
                "evidence": json.loads(job.verdict_json or "{}"),
            }
        )
    query = select(Event).where(Event.job_id == job.id, Event.kind == "stop_confirmed")
    seen = session.scalars(query.order_by(Event.id.desc())).first()
    reads = json.loads(seen.data_json).get("seen_ms", []) if seen is not None else []
    rented = session.scalars(
        select(Instance).where(Instance.job_id == job.id).order_by(Instance.id.desc())
    ).all()
    hint = NEXT_STEPS.get(job.pause_reason or "", "")
    if job.state == "released" and job.pause_reason == "finished":
        hint = NO_DISK
    return {
        "schema": "costguard.explain/1",
        "job": job.name,
        "state": job.state,
        "pause_reason": job.pause_reason,
        "verdicts": verdicts,
        "lead_up": lead_up(session, job),
        "stop": {
            "seen": [time_text(at) for at in reads],
            "confirmed_at": None if seen is None else time_text(seen.at_ms),
            # A person's word: never a proof.
            "attested_at": time_text(rented[0].attested_stop_ms) if rented else None,
        },
        "saved": _saved(session, job),
        "cost": _cost(session, job, rented),
        "advice": advice(session, job),
        "next": [hint.format(job=job.name)] if hint else [],
    }


def _saved(session: Session, job: Job) -> list[dict[str, Any]]:
    """The newest complete checkpoint of each stage and every adapter, and whether they are home."""
    query = select(Artifact).where(Artifact.job_id == job.id, Artifact.complete)
    newest: dict[tuple[int, str], Artifact] = {}
    for row in session.scalars(query.order_by(Artifact.step, Artifact.id)):
        newest[row.stage, row.kind] = row
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "stage": row.stage,
            "step": row.step,
            "home_at": time_text(row.pulled_ms),
            "path": row.path,
        }
        for row in newest.values()
    ]


def _cost(session: Session, job: Job, rented: Sequence[Instance]) -> dict[str, Any]:
    """What the job has cost, how much of that taught nothing, and what its disk goes on costing."""
    spent = spent_micros(rented, posted_by_instance(session, [job.id]))
    kept = [row for row in rented if row.released_ms is None]
    a_day = sum(row.paused_micros_per_hour for row in kept) * HOURS_PER_DAY
    return {
        "spent_yuan": yuan_text(spent),
        "cap_yuan": yuan_text(job.cap_micros),
        "idle_yuan": yuan_text(idle_micros(session, [job])),
        "disk_yuan_per_day": yuan_text(a_day),
    }
