"""`after_finish = "release"`: the disk goes only after the result at home was read and is whole.

A disk that was kept costs some yuan; one that was deleted too early costs the night. So what the
books say of the download is not enough: each file is hashed once more where it lies now.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.remote.download import DownloadError, lacking, wanted_files
from costguard.store.events import add_event
from costguard.store.models import Artifact, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.daemon.act import Actor


def give_back(actor: Actor) -> None:
    """Turn the job's wish into `release` if its result is home, else into `keep`, saying why."""
    with actor.context.store.read() as session:
        why = _why_not(session, session.get_one(Job, actor.job_id))
    now = actor.now()
    with actor.context.store.write() as session:
        job = session.get_one(Job, actor.job_id)
        if job.wish != "run":
            return  # a person has said something else meanwhile
        job.wish = "release" if why is None else "keep"
        text = "the result is home and verified: the instance is given back, as the job file asks"
        if why is not None:
            text = f"the disk is kept, and costs: {why}; see `costguard pull {job.name}`"
        kind = "disk_kept" if why else "result_home"
        add_event(session, job.id, now.utc_ms, kind, text)
    actor.context.notify("warning" if why else "info", actor.snap.spec.name, text)
    actor.wake()


def _why_not(session: Session, job: Job) -> str | None:
    """Why the disk must not be deleted, or None where the last stage's adapter is here, whole."""
    query = select(Artifact).where(Artifact.job_id == job.id, Artifact.stage == job.stage)
    results = session.scalars(query.where(Artifact.kind == "adapter", Artifact.complete)).all()
    if not results:
        return "it left no adapter, so what its result is cannot be told"
    for row in results:
        if row.pulled_ms is None or row.path is None:
            return f"{row.name} did not come home"
        try:
            missing = lacking(wanted_files(json.loads(row.files_json)), Path(row.path))
        except DownloadError as error:
            return f"{row.name} cannot be verified: {error}"
        if missing:
            return f"{missing[0]} in {row.path} is missing, or is not what was downloaded"
    return None
