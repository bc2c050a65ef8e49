"""`resume`: a job that was paused goes on, on its own instance, from its last checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from costguard.core.decide import FINAL_STATES
from costguard.core.money import yuan_text
from costguard.core.spec import JobSpec, spec_from_json
from costguard.daemon.let_go import who_has_it_now
from costguard.daemon.load import newest_instance
from costguard.daemon.new_instance import Seed, part_from, refuse_same_only, seed_of, seeded
from costguard.daemon.plan import plan
from costguard.errors import EXIT_REFUSED, EXIT_USAGE, UserError
from costguard.report.documents import find_job
from costguard.store.events import add_event
from costguard.store.stages import enter_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from costguard.daemon.context import Context
    from costguard.store.models import Job


def resume(context: Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """Have a paused job go on; with `spec` in `args`, as that one says from now on.

    With `new_instance`, on a new one, from the newest checkpoint at home; with `quote` it is only
    said what would be done. Nothing is switched on here: the next pass reserves first. Raises
    UserError for a job that cannot go on, with the arithmetic where the budget does not reach.
    """
    changed = None if args.get("spec") is None else spec_from_json(str(args["spec"]))
    anew = args.get("new_instance") is True
    with context.store.read() as session:
        job = find_job(session, str(args.get("job")))
        _refuse_unresumable(session, job, changed, anew=anew)
        job_id, spec = job.id, changed or spec_from_json(job.spec_json)
        at = _next_stage(job, changed)
        if anew and spec.instance.reused:
            spec = spec.rented_anew()
        seed = seed_of(session, job, spec, at) if anew and changed is None else None
        told = _told_anew(session, job, seed) if anew else {}
    answer = {**plan(context, spec, job_id, new_disk=anew), **told}
    if args.get("quote"):
        return answer
    now = context.clock.now()
    with context.store.write() as session:
        job = find_job(session, str(args.get("job")))
        _refuse_unresumable(session, job, changed, anew=anew)
        stage = _next_stage(job, changed)
        if anew:
            answer |= part_from(session, job, context.tag_prefix, now.utc_ms) or {}
            spec = seeded(spec, stage, seed)
        if anew or changed is not None:
            job.spec_json = spec.to_json()
        job.attempt, job.collected = job.attempt + 1, False
        enter_stage(session, job, stage, now.utc_ms)
        job.state, job.wish, job.pause_reason = "queued", "run", None
        job.verdict_text = job.verdict_json = job.verdict_boot_id = None
        job.verdict_utc_ms = job.verdict_boot_ms = None
        job.retry_at_ms = job.closed_ms = None
        text = f"resumed, attempt {job.attempt + 1}"
        if anew:
            text += f" on a new instance, from {'the start' if seed is None else seed.name}"
        data = {"attempt": job.attempt, "stage": stage, "changed": changed is not None}
        add_event(session, job.id, now.utc_ms, "resumed", text, data)
    return answer


def _next_stage(job: Job, changed: JobSpec | None) -> int:
    """The rung to go on with: what is trained now is another thing, or a person let a gate pass."""
    if changed is not None:
        return 0
    return job.stage + 1 if job.pause_reason == "gate" else job.stage


def _told_anew(session: Session, job: Job, seed: Seed | None) -> dict[str, Any]:
    """What a person should know before a second machine is rented beside the first."""
    old = newest_instance(session, job.id)
    kept = old is not None and old.released_ms is None
    return {
        "worst_case_yuan": yuan_text(job.cap_micros),
        "from": None if seed is None else seed.name,
        "old_disk": old.provider_id if kept and old is not None else None,
    }


def _refuse_unresumable(session: Session, job: Job, changed: JobSpec | None, *, anew: bool) -> None:
    if job.state not in FINAL_STATES:
        what = f"{job.name} is {job.state}: there is nothing to resume"
        hint = f"costguard status {job.name}"
        if anew:
            hint = f"pause it first: costguard pause {job.name}"
        raise UserError("not_paused", what, job.name, hint, EXIT_USAGE)
    if anew:
        refuse_same_only(session, job, spec_from_json(job.spec_json))
    instance = newest_instance(session, job.id)
    gone = job.state == "released" or (instance is not None and instance.released_ms is not None)
    if gone and not anew:
        raise UserError(
            "released",
            who_has_it_now(session, job)
            or f"the instance of {job.name} was given back: its disk is gone",
            job.name,
            f"go on from what is at home: costguard resume {job.name} --new-instance",
            EXIT_REFUSED,
        )
    if job.state == "finished" and changed is None:
        raise UserError(
            "finished",
            f"{job.name} has finished: there is nothing to go on with",
            job.name,
            f"train again on other data: costguard resume {job.name} --data FILE",
            EXIT_REFUSED,
        )
    if changed is not None:
        _refuse_another_job(job, changed)


def _refuse_another_job(job: Job, changed: JobSpec) -> None:
    """The same job on the same machine: only what is trained, and how, may change."""
    was = json.loads(job.spec_json)
    for key, new in (("name", changed.name), ("project", changed.project)):
        if new != was[key]:
            raise UserError(
                "another_job",
                f"the job file now says {key} = {new!r}, the job was submitted with {was[key]!r}",
                changed.source,
                "submit it as a job of its own, or put the old value back",
                EXIT_USAGE,
            )
    if changed.instance.provider != was["instance"]["provider"]:
        what = f"the job runs on {was['instance']['provider']}, not {changed.instance.provider}"
        hint = "submit it as a job of its own"
        raise UserError("another_job", what, changed.source, hint, EXIT_USAGE)
