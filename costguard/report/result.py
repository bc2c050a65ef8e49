"""What a job has made, and how: for talking to it, exporting it, on the instance or at home."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core.spec import spec_from_json
from costguard.store.models import Artifact, Telemetry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.models import Job

DIGEST_CHARS = 12


def result_document(session: Session, job: Job) -> dict[str, Any]:
    """The last stage's command, the files that went with it, and its adapter where there is one.

    `digest` tells one adapter from another by its files' own sha256; `path` is where it came home
    to, or null; `pull_bytes_per_s` how fast anything may come. `python` is the interpreter that
    trained it on the instance.
    """
    spec = spec_from_json(job.spec_json)
    run = spec.runs[min(job.stage, len(spec.runs) - 1)]
    adapter = session.scalars(
        select(Artifact)
        .where(Artifact.job_id == job.id, Artifact.stage == job.stage)
        .where(Artifact.kind == "adapter", Artifact.complete)
        .order_by(Artifact.id.desc())
    ).first()
    return {
        "job": job.name,
        "argv": list(run.argv),
        "output_dir": run.output_dir,
        "uploads": [{"local": each.local, "remote": each.remote} for each in run.uploads],
        "pull_to": spec.pull_to,
        "pull_bytes_per_s": spec.pull_bytes_per_s,
        "python": _python(session, job),
        "adapter": None if adapter is None else _adapter(adapter),
    }


def _adapter(row: Artifact) -> dict[str, Any]:
    digest = hashlib.sha256(row.files_json.encode()).hexdigest()[:DIGEST_CHARS]
    path = row.path if row.pulled_ms is not None else None
    return {"name": row.name, "digest": digest, "path": path}


def _python(session: Session, job: Job) -> str | None:
    """The interpreter that the agent found, as it told at the last start of this stage."""
    query = select(Telemetry.data_json).where(
        Telemetry.job_id == job.id, Telemetry.stage == job.stage, Telemetry.kind == "started"
    )
    text = session.scalars(query.order_by(Telemetry.seq.desc()).limit(1)).first()
    return None if text is None else json.loads(text).get("python")
