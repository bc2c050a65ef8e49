"""Steps that were paid for and are trained again: those after the checkpoint that is gone on from.

A trainer that saves when it is asked to loses none; LLaMA-Factory does not, and loses up to
`save_steps` of them at each pause.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from costguard.store.models import Artifact, Job, Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session


def at_start(session: Session, job: Job, message: Mapping[str, Any]) -> tuple[str, int]:
    """How a `started` message reads, and how many steps are trained for the second time."""
    name, last = message.get("resumes_from"), _last_step(session, job)
    if not isinstance(name, str):
        if message.get("resumes_from", "") is None and last:
            return f"training was started anew: none of its {last} steps was saved whole", last
        return "training was started", 0
    digits = name.rpartition("-")[2]
    lost = max(0, last - int(digits)) if digits.isdigit() else 0
    again = f"; {lost} steps are trained again" if lost else ""
    return f"training goes on from {name}{again}", lost


def at_exit(session: Session, job: Job, message: Mapping[str, Any]) -> tuple[str, int]:
    """What an `exit` message adds of steps that no whole checkpoint holds; "" where none is lost.

    Nothing of a training that is through, nor while its last checkpoint is still being verified.
    """
    if message.get("code") == 0 or message.get("artifact_pending") is True:
        return "", 0
    query = select(func.max(Artifact.step)).where(
        Artifact.job_id == job.id, Artifact.stage == job.stage, Artifact.complete
    )
    saved, last = session.scalar(query), _last_step(session, job)
    lost = max(0, last - (saved or 0))
    if not lost:
        return "", 0
    since = "since the start" if saved is None else f"since the last whole checkpoint, step {saved}"
    return f"; {lost} steps are lost {since}", lost


def _last_step(session: Session, job: Job) -> int:
    """The last step that was logged in this stage, by whatever attempt; 0 before the first."""
    query = select(Telemetry.data_json).where(
        Telemetry.job_id == job.id, Telemetry.stage == job.stage, Telemetry.kind == "progress"
    )
    text = session.scalars(query.order_by(Telemetry.seq.desc()).limit(1)).first()
    step = None if text is None else json.loads(text).get("step")
    return step if isinstance(step, int) else 0
