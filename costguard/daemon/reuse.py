"""A new job on its project's paused instance: the model and the environment are on its disk.

Only what nobody needs any more is taken: of a job that has finished, whose result is at home, and
that had asked for the same machine. Unless the job file says `reuse = false` it is taken where
that can only save: the model is there already, a new instance would not be cheaper, and no job
file has the disk deleted behind a person's back. What was taken so goes back if no card is free
there (`let_go`); with `reuse = true` the job waits for one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core.decide import FINAL_STATES
from costguard.core.money import yuan_text
from costguard.core.spec import model_of
from costguard.core.tariff import list_price_micros
from costguard.daemon.adopt import check_adoption
from costguard.daemon.asking import price_of
from costguard.daemon.load import job_spec
from costguard.daemon.plan import NO_ROW
from costguard.errors import UserError
from costguard.providers.base import ProviderError
from costguard.store.models import Artifact, Instance, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.spec import InstanceWish, JobSpec
    from costguard.daemon.context import Context


@dataclass(frozen=True, slots=True)
class Paused:
    """An instance that a new job could go on on, and the finished job that has it."""

    job: str
    instance_id: str
    has_model: bool  # the new job's model is the one that is there
    would_go: bool = False  # the new job's file has the disk deleted at its end

    @property
    def what(self) -> str:
        """What is on its disk that the new job would otherwise pay for again."""
        return "its model and environment" if self.has_model else "its environment"

    @property
    def why_not(self) -> str | None:
        """What speaks against taking it unasked, whatever it costs."""
        if not self.has_model:
            return "but not this job's model"
        return "but this job would delete its disk" if self.would_go else None

    def is_taken(self, spec: JobSpec) -> bool:
        """Whether the job goes on on it, if a new one would not be cheaper."""
        return spec.instance.reuse is True or self.why_not is None

    @property
    def document(self) -> dict[str, str]:
        """As JSON answers and events bear it."""
        return {"instance": self.instance_id, "paused_since": self.job}


def with_reuse(context: Context, spec: JobSpec) -> tuple[JobSpec, Paused | None, list[str]]:
    """The job as it will go on, the paused instance that it takes, and what to say of it."""
    wish = spec.instance
    with context.store.read() as session:
        found = paused_instance(session, spec)
    if found is None:
        none = "no paused instance of this project can be used again: a new one is rented"
        return spec, None, [none] if wish.reuse and wish.instance_id is None else []
    taken = replace(spec, instance=replace(wish, instance_id=found.instance_id, reused=True))
    provider, at = context.provider(wish.provider), f"{found.instance_id}, paused since {found.job}"
    try:
        check_adoption(context, provider, taken, NO_ROW, context.clock.now())
    except UserError as error:
        what = f"{found.instance_id} cannot be used again, a new one is rented: {error.what}"
        return spec, None, [what]
    if wish.reuse:
        line = (
            f"on {at}, with {found.what}; it waits where no card is free there, "
            f"and {found.job}, whose result is at home, lets go of it"
        )
        return taken, found, [line]
    why_not = found.why_not or _dearer(context, spec, taken)
    if why_not is not None:
        return (
            spec,
            None,
            [f"{at}, has {found.what}, {why_not}: reuse = true under [instance] takes it"],
        )
    line = (
        f"on {at}, with {found.what}, and {found.job}, whose result is at home, lets go of it; "
        "where no card is free there, it goes back and a new one is rented"
    )
    return taken, found, [line]


def paused_instance(session: Session, spec: JobSpec) -> Paused | None:
    """The newest instance that would do, one with the job's model first; None if none is wanted."""
    wish = spec.instance
    if wish.instance_id is not None or wish.reuse is False or spec.drill:
        return None
    query = (
        select(Job, Instance)
        .join(Instance, Instance.job_id == Job.id)
        .where(Job.project == spec.project, Job.state == "finished")
        .where(Instance.provider == wish.provider, Instance.provider_id.is_not(None))
        .where(Instance.released_ms.is_(None), Instance.replaced_ms.is_(None))
        .where(Instance.stopped_seen_ms.is_not(None))
        .order_by(Instance.id.desc())
    )
    claimed = _claimed(session)
    found = [
        Paused(
            job.name,
            str(instance.provider_id),
            has_model=_model(job_spec(job)) == _model(spec),
            would_go=wish.after_finish == "release",
        )
        for job, instance in session.execute(query)
        if _is_like(job_spec(job).instance, wish)
        and (wish.provider, instance.provider_id) not in claimed
        and not _is_needed(session, job)
    ]
    return max(found, key=lambda each: each.has_model, default=None)


def _claimed(session: Session) -> set[tuple[str, str | None]]:
    """What unfinished jobs are on, or are about to take: the second of two gets another one."""
    wishes = (
        job_spec(job).instance
        for job in session.scalars(select(Job).where(Job.state.not_in(FINAL_STATES)))
    )
    return {(wish.provider, wish.instance_id) for wish in wishes}


def _is_like(old: InstanceWish, new: InstanceWish) -> bool:
    """Whether what was rented for `old` is what `new` asks for: the machine, and room enough."""
    disks = ((old.system_disk_gb, new.system_disk_gb), (old.data_disk_gb, new.data_disk_gb))
    roomy = all(want is None or (has is not None and has >= want) for has, want in disks)
    return roomy and _machine(old) == _machine(new)


def _machine(wish: InstanceWish) -> tuple[object, ...]:
    return wish.gpu, wish.gpu_count, wish.image, wish.region, wish.work_dir


def _model(spec: JobSpec) -> object:
    """The model that is trained, as the trainer's flag or LLaMA-Factory's file names it."""
    return model_of(spec.to_json()) or spec.runs[0].config.get("model_name_or_path")


def _is_needed(session: Session, job: Job) -> bool:
    """Whether something of the job's may be on that disk alone, or it is to be deleted.

    What a command has written is not known, so it may be needed.
    """
    to_be_deleted = job.wish == "run" and job_spec(job).instance.after_finish == "release"
    if job.wish not in ("run", "keep") or to_be_deleted:
        return True
    query = select(Artifact.kind, Artifact.pulled_ms).where(
        Artifact.job_id == job.id, Artifact.complete
    )
    known = session.execute(query).all()
    at_home = {kind for kind, pulled_ms in known if pulled_ms is not None}
    return "adapter" not in at_home or any(pulled_ms is None for _, pulled_ms in known)


def _dearer(context: Context, spec: JobSpec, taken: JobSpec) -> str | None:
    """That it costs more than it may, or than a new one does; None where it does not."""
    now, key = context.clock.now(), context.client_public_key
    provider = context.provider(spec.instance.provider)
    try:
        old, new = (price_of(provider, each, key, now) for each in (taken, spec))
    except ProviderError:
        return None  # a new one has no price now: then this one is what there is
    was, is_now = (list_price_micros(each.tariff, now.utc_ms) for each in (old, new))
    limit = spec.instance.max_price_micros_per_hour
    if (limit is not None and was > limit) or (new.in_stock and is_now < was):
        return f"but costs {yuan_text(was)} yuan an hour, a new one {yuan_text(is_now)}"
    return None
