"""`release` of a machine that is the user's own: costguard lets go of it and deletes nothing there.

To delete, it would have to switch the machine on once more, for money, and delete on what belongs
to somebody. So it is said exactly what lies where.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.daemon.load import job_spec, newest_instance
from costguard.store.models import Artifact

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.providers.base import ProviderFacts
    from costguard.store.models import Job


def text_of_release(session: Session, job: Job, facts: ProviderFacts) -> str:
    """What a release has done: the instance went, or it stays and keeps what is named."""
    return "the instance was given back" if facts.can_create else left_behind(session, job)


def left_behind(session: Session, job: Job) -> str:
    """What of ours is on the machine, how to remove it, and what of it is nowhere else."""
    stays = "the machine is yours and stays as it is"
    instance = newest_instance(session, job.id)
    work_dir = job_spec(job).instance.work_dir or (instance and instance.work_dir)
    if instance is None or not work_dir:
        return stays  # nobody has logged in there
    folder = f"{work_dir}/costguard"
    ours, all_jobs = shlex.quote(f"{folder}/{instance.tag}"), shlex.quote(folder)
    lines = [
        f"remove what is left there with rm -rf {ours}",
        f"{all_jobs} also holds caches and environments for the next job",
    ]
    query = select(Artifact.name).where(
        Artifact.job_id == job.id, Artifact.complete, Artifact.pulled_ms.is_(None)
    )
    missing = ", ".join(session.scalars(query.order_by(Artifact.id)))
    if missing:
        lines.append(f"not at home: {missing}")
    return f"{stays}: " + "; ".join(lines)
