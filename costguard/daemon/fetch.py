"""`pull`: what a job that has ended still holds on its instance's disk comes home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core.decide import FINAL_STATES
from costguard.core.spec import spec_from_json
from costguard.daemon.let_go import who_has_it_now
from costguard.daemon.load import newest_instance
from costguard.daemon.plan import plan
from costguard.errors import EXIT_REFUSED, EXIT_USAGE, UserError
from costguard.report.documents import find_job
from costguard.store.events import add_event
from costguard.store.models import Artifact, Event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from costguard.daemon.context import Context
    from costguard.store.models import Job


def pull(context: Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """Have an ended job's instance switched on, asked for what is missing here, and off again.

    Raises UserError where nothing can be fetched, with the arithmetic where the budget does not
    reach for the few minutes that it takes.
    """
    with context.store.read() as session:
        job = find_job(session, str(args.get("job")))
        missing = _missing(session, job)
        _refuse_pointless(session, job, missing)
        job_id, spec = job.id, spec_from_json(job.spec_json)
    answer = plan(context, spec, job_id)
    now = context.clock.now()
    with context.store.write() as session:
        job = find_job(session, str(args.get("job")))
        _refuse_pointless(session, job, missing)
        job.wish, job.state = "pull", "queued"
        job.retry_at_ms = job.closed_ms = None
        names = ", ".join(missing) or "whatever its disk holds"
        add_event(session, job.id, now.utc_ms, "pull", f"asked to bring home: {names}")
    return {**answer, "missing": missing}


def refuse_unbegun(session: Session, job: Job, what_for: str) -> None:
    """UserError where no training of the job ever began: its disk holds no result.

    Switching it on would cost money for nothing, and what its agent found there to do would be
    the training itself.
    """
    begun = select(Event.id).where(Event.job_id == job.id, Event.kind == "training_started")
    known = select(Artifact.id).where(Artifact.job_id == job.id)
    if session.scalar(begun.limit(1)) is None and session.scalar(known.limit(1)) is None:
        what = f"no training of {job.name} ever began: there is nothing to {what_for}"
        hint = f"see why: costguard explain {job.name}; look around: costguard shell {job.name}"
        raise UserError("never_began", what, job.name, hint, EXIT_REFUSED)


def _missing(session: Session, job: Job) -> list[str]:
    query = select(Artifact.name).where(
        Artifact.job_id == job.id,
        Artifact.stage == job.stage,
        Artifact.complete,
        Artifact.pulled_ms.is_(None),
    )
    return list(session.scalars(query.order_by(Artifact.id)))


def _refuse_pointless(session: Session, job: Job, missing: list[str]) -> None:
    if job.state not in FINAL_STATES:
        what = f"{job.name} is {job.state}: its results come home by themselves"
        raise UserError("not_ended", what, job.name, f"costguard status {job.name}", EXIT_USAGE)
    instance = newest_instance(session, job.id)
    if job.state == "released" or instance is None or instance.released_ms is not None:
        gone = f"the instance of {job.name} is gone: there is no disk to fetch from"
        what = who_has_it_now(session, job) or gone
        hint = "what came home is in its artifacts folder"
        raise UserError("released", what, job.name, hint, EXIT_REFUSED)
    refuse_unbegun(session, job, "bring home")
    if job.state == "finished" and not missing:
        what = f"everything of {job.name} is home already"
        raise UserError("all_home", what, job.name, "look into its artifacts folder", EXIT_REFUSED)
