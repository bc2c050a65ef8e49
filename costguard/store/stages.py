"""A job comes to a stage: what is kept of the one before, and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from costguard.store.models import Telemetry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.models import Job


def enter_stage(session: Session, job: Job, stage: int, at_ms: int) -> None:
    """Have the job begin `stage`; what its journal already held there is an earlier attempt's."""
    job.stage, job.stage_since_ms, job.phase = stage, at_ms, None
    job.launched_ms = job.exit_json = job.forecast_json = None
    seen = select(func.max(Telemetry.seq)).where(
        Telemetry.job_id == job.id, Telemetry.stage == stage
    )
    job.first_seq = job.last_seq = session.scalar(seen) or 0
