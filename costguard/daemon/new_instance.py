"""`resume --new-instance`: go on from what is at home, on a new instance; the old disk is kept.

The old disk becomes the affair of a job of its own, which can only be looked after and released:
it is metered, watched and stopped if somebody switches it on, as every paused instance is. What
was held of the budget for it goes along, so that the two together never spend more than one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core.money import yuan_text
from costguard.core.spec import JobSpec, UploadWish
from costguard.daemon.load import job_spec, newest_instance, open_interval
from costguard.daemon.metering import close_disk
from costguard.errors import EXIT_REFUSED, UserError
from costguard.remote.download import DownloadError, lacking, wanted_files
from costguard.store.events import add_event
from costguard.store.models import Artifact, Instance, Intent, Job
from costguard.store.tariffs import set_tariff, tariff_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

INIT_FLAG = "--init_adapter"
INIT_HERE = "init_adapter"  # in the job's own folder: the folder beside it is not there


@dataclass(frozen=True, slots=True)
class Seed:
    """What the new instance is given to go on from: an artifact at home, and its name there."""

    local: str
    remote: str
    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        """As a person calls it."""
        return Path(self.local).name


def seed_of(session: Session, job: Job, spec: JobSpec, stage: int) -> Seed | None:
    """The newest checkpoint of `stage` that is whole at home; None: it begins anew.

    A stage that starts from the one before needs that one's adapter where it has no checkpoint of
    its own. Raises UserError where that is not at home either.
    """
    run = spec.runs[stage]
    for row in _at_home(session, job, stage, "checkpoint"):
        if _is_whole(row):
            return Seed(str(row.path), f"{run.output_dir}/{row.name}", run.argv)
    if spec.stages[stage].start != "previous":
        return None
    for row in _at_home(session, job, stage - 1, "adapter"):
        if _is_whole(row):
            at = run.argv.index(INIT_FLAG) + 1
            argv = (*run.argv[:at], INIT_HERE, *run.argv[at + 1 :])
            return Seed(str(row.path), INIT_HERE, argv)
    raise UserError(
        "nothing_at_home",
        f"stage {stage + 1} of {job.name} starts from the adapter of the one before, "
        "which is not at home",
        job.name,
        f"bring it home first: costguard pull {job.name}",
        EXIT_REFUSED,
    )


def refuse_same_only(session: Session, job: Job, spec: JobSpec) -> None:
    """UserError where no new instance can be had for this job, or the old one is not proven off."""
    if spec.instance.instance_id is not None and not spec.instance.reused:
        what = f"{job.name} runs on a machine that its job file names: no new one is made for it"
        raise UserError("adopted", what, "[instance] id", "name another one there", EXIT_REFUSED)
    old = newest_instance(session, job.id)
    if old is not None and old.released_ms is None and old.stopped_seen_ms is None:
        what = f"the old instance of {job.name} was not seen stopped: no second one is made"
        hint = f"costguard explain {job.name}"
        raise UserError("not_stopped", what, job.name, hint, EXIT_REFUSED)


def seeded(spec: JobSpec, stage: int, seed: Seed | None) -> JobSpec:
    """The job with what is to be uploaded to go on from; nothing of an earlier such resume."""
    run = spec.runs[stage]
    kept = tuple(
        each
        for each in run.uploads
        if not each.remote.startswith(f"{run.output_dir}/") and each.remote != INIT_HERE
    )
    run = replace(run, uploads=kept)
    if seed is not None:
        uploads = (*kept, UploadWish(seed.local, seed.remote))
        run = replace(run, argv=seed.argv, uploads=uploads)
    return replace(spec, runs=(*spec.runs[:stage], run, *spec.runs[stage + 1 :]))


def part_from(session: Session, job: Job, prefix: str, now_ms: int) -> dict[str, Any] | None:
    """Have the job's disk looked after by a job of its own; what it is called, and what it holds.

    None where there is no disk any more. What was left behind there is no longer counted among
    what can be brought home.
    """
    old = newest_instance(session, job.id)
    for row in session.scalars(
        select(Artifact).where(Artifact.job_id == job.id, Artifact.pulled_ms.is_(None))
    ):
        row.complete = False
    if old is None:
        return None
    old.replaced_ms = now_ms
    if old.released_ms is not None:
        return None
    keeper = _keeper(session, job, old, now_ms)
    _hand_over(session, keeper, old, prefix, now_ms)
    held = keeper.cap_micros
    job.cap_micros, job.hold_micros = job.cap_micros - held, 0
    text = f"its old disk is now {keeper.name}; {yuan_text(held)} yuan of the cap went with it"
    add_event(session, job.id, now_ms, "parted", text, {"disk": keeper.name})
    return {"disk": keeper.name, "disk_yuan": yuan_text(held)}


def _keeper(session: Session, job: Job, old: Instance, now_ms: int) -> Job:
    name = f"{job.name}.disk-{old.id}"
    spec = job_spec(job)
    wish = replace(spec.instance, after_finish="pause")
    keeper = Job(
        name=name,
        project=job.project,
        spec_json=replace(spec, name=name, instance=wish).to_json(),
        submit_key=f"disk:{old.id}",
        created_ms=now_ms,
        closed_ms=now_ms,
        state="paused",
        cap_micros=job.hold_micros,
        hold_micros=job.hold_micros,
        stage=job.stage,
        pause_reason="user",
        verdict_text=f"{job.name} goes on on a new instance; this is its old disk",
        verdict_json="{}",
        verdict_utc_ms=now_ms,
    )
    session.add(keeper)
    session.flush()
    return keeper


def _hand_over(session: Session, keeper: Job, old: Instance, prefix: str, now_ms: int) -> None:
    """The machine is the keeper's from the moment up to which its disk was charged to the job."""
    disk = open_interval(session, old.id, "disk")
    since_ms = now_ms if disk is None else disk.metered_to_ms
    close_disk(session, old, since_ms)
    old.released_ms = now_ms
    tag = f"{prefix}{keeper.id}-1"
    row = Instance(
        job_id=keeper.id,
        provider=old.provider,
        provider_id=old.provider_id,
        tag=tag,
        gpu=old.gpu,
        power=old.power,
        guest_stop=old.guest_stop,
        created_ms=since_ms,
        work_dir=old.work_dir,
        last_call_utc_ms=old.last_call_utc_ms,
        last_call_boot_ms=old.last_call_boot_ms,
        last_call_boot_id=old.last_call_boot_id,
        stopped_seen_ms=old.stopped_seen_ms,
    )
    set_tariff(row, tariff_of(old))
    session.add(row)
    session.add(
        Intent(
            job_id=keeper.id,
            kind="adopt",
            key=f"adopt:{tag}",
            state="done",
            created_ms=now_ms,
            closed_ms=now_ms,
            detail=str(old.provider_id),
        )
    )


def _at_home(session: Session, job: Job, stage: int, kind: str) -> list[Artifact]:
    query = select(Artifact).where(
        Artifact.job_id == job.id,
        Artifact.stage == stage,
        Artifact.kind == kind,
        Artifact.complete,
        Artifact.pulled_ms.is_not(None),
    )
    return list(session.scalars(query.order_by(Artifact.step.desc(), Artifact.id.desc())))


def _is_whole(row: Artifact) -> bool:
    """Whether each of its files is where it came home to, as it came."""
    if row.path is None:
        return False
    try:
        return not lacking(wanted_files(json.loads(row.files_json)), Path(row.path))
    except DownloadError:
        return False
