"""A new job on its project's paused instance: the model and the environment are on its disk.

Only what nobody needs any more is taken: of a job that has finished, whose result is at home, and
that had asked for the same machine. It is always said; it is done where the job file says `reuse`,
since that one host may have no free card when a new instance could be had elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.daemon.adopt import check_adoption
from costguard.daemon.load import job_spec
from costguard.daemon.plan import NO_ROW
from costguard.errors import UserError
from costguard.store.models import Artifact, Instance, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.spec import InstanceWish, JobSpec
    from costguard.daemon.context import Context


def with_reuse(context: Context, spec: JobSpec) -> tuple[JobSpec, list[str]]:
    """The job on the paused instance if it wants one and there is one; what to say of it."""
    wish = spec.instance
    if wish.instance_id is not None or spec.drill:
        return spec, []
    with context.store.read() as session:
        found = _paused(session, spec)
    if found is None:
        none = "no paused instance of this project can be used again: a new one is rented"
        return spec, [none] if wish.reuse else []
    job, instance_id = found
    if not wish.reuse:
        line = f"{instance_id}, paused since {job}, has its model and environment"
        return spec, [f"{line}: reuse = true under [instance] takes it"]
    taken = replace(spec, instance=replace(wish, instance_id=instance_id))
    provider = context.provider(wish.provider)
    try:
        check_adoption(context, provider, taken, NO_ROW, context.clock.now())
    except UserError as error:
        return spec, [f"{instance_id} cannot be used again, a new one is rented: {error.what}"]
    line = (
        f"on {instance_id}, paused since {job}, with its model and environment; it waits where no "
        f"card is free there, and {job}, whose result is at home, lets go of it"
    )
    return taken, [line]


def _paused(session: Session, spec: JobSpec) -> tuple[str, str] | None:
    """The job and the id of the newest instance that would do."""
    query = (
        select(Job, Instance)
        .join(Instance, Instance.job_id == Job.id)
        .where(Job.project == spec.project, Job.state == "finished")
        .where(Instance.provider == spec.instance.provider, Instance.provider_id.is_not(None))
        .where(Instance.released_ms.is_(None), Instance.replaced_ms.is_(None))
        .where(Instance.stopped_seen_ms.is_not(None))
        .order_by(Instance.id.desc())
    )
    for job, instance in session.execute(query):
        same = _machine(job_spec(job).instance) == _machine(spec.instance)
        if same and job.wish in ("run", "keep") and not _is_needed(session, job):
            return job.name, str(instance.provider_id)
    return None


def _machine(wish: InstanceWish) -> tuple[object, ...]:
    return wish.gpu, wish.gpu_count, wish.image, wish.region, wish.work_dir


def _is_needed(session: Session, job: Job) -> bool:
    """Whether something of the job's may be on that disk alone, as what a command has written."""
    query = select(Artifact.kind, Artifact.pulled_ms).where(
        Artifact.job_id == job.id, Artifact.complete
    )
    known = session.execute(query).all()
    at_home = {kind for kind, pulled_ms in known if pulled_ms is not None}
    return "adapter" not in at_home or any(pulled_ms is None for _, pulled_ms in known)
