"""Answers to what only reads, from an open session.

The daemon's socket and the command line without a daemon give the same ones.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from costguard import paths
from costguard.core.calendar import month_of
from costguard.core.money import yuan_text
from costguard.core.spec import spec_from_json
from costguard.errors import EXIT_USAGE, UserError
from costguard.report.explain import explain_document
from costguard.report.figures import time_text
from costguard.report.page import page_document
from costguard.report.result import result_document
from costguard.report.spend import report_document
from costguard.report.status import status_document
from costguard.store.database import read_only_session
from costguard.store.ledger import Caps, accounts
from costguard.store.models import Artifact, Event, Job, Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

EVENTS_LIMIT = 200
LOG_ROWS = 500


def answer(do: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a reading command from the database alone, when no daemon runs."""
    from costguard.settings import load_settings  # noqa: PLC0415  (only this way needs pydantic)

    database = paths.database_path()
    settings = load_settings()
    month = settings.budgets.month_micros
    caps = Caps(month, settings.budgets.projects)
    zone = ZoneInfo(settings.timezone)
    now_ms = time.time_ns() // 1_000_000
    if not database.exists():
        return _empty(do, args, now_ms)
    with read_only_session(database) as session:
        return read_answer(session, do, args, now_ms, zone, caps, None)


def read_answer(
    session: Session,
    do: str,
    args: Mapping[str, Any],
    now_ms: int,
    zone: ZoneInfo,
    caps: Caps,
    daemon_pid: int | None,
) -> dict[str, Any]:
    """The answer to one reading command."""
    name = args.get("job")
    if name is not None:
        find_job(session, str(name))
    if do == "status":
        return status_document(session, now_ms, daemon_pid, name)
    if do == "report":
        return report_document(session, now_ms, zone, args.get("by"))
    if do == "page":
        return page_document(session, now_ms, zone, daemon_pid, args.get("by"))
    simple: Mapping[str, Callable[[], dict[str, Any]]] = {
        "events": lambda: _events(session, args),
        "explain": lambda: explain_document(session, find_job(session, str(args["job"]))),
        "logs": lambda: _logs(session, args),
        "source": lambda: _source(session, args),
        "result": lambda: result_document(session, find_job(session, str(args["job"]))),
        "budget_show": lambda: _budgets(session, caps, zone, now_ms),
    }
    return simple[do]()


def _empty(do: str, args: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """What a home without a database answers: nothing was ever submitted here."""
    if args.get("job") is not None:
        raise _unknown_job(str(args["job"]), [])
    if do == "status":
        daemon = {"running": False, "pid": None}
        schema = "costguard.status/1"
        return {"schema": schema, "as_of": time_text(now_ms), "daemon": daemon, "jobs": []}
    if do == "events":
        return {"events": [], "last": 0}
    if do == "budget_show":
        return {"schema": "costguard.budget/1", "as_of": time_text(now_ms), "budgets": []}
    raise UserError(
        "nothing_here",
        "nothing was ever submitted in this home",
        str(paths.home()),
        "try `costguard demo`, or submit a job",
        EXIT_USAGE,
    )


def find_job(session: Session, name: str) -> Job:
    """The newest job of that name; UserError names the jobs that there are."""
    job = session.scalars(select(Job).where(Job.name == name).order_by(Job.id.desc())).first()
    if job is None:
        raise _unknown_job(name, list(session.scalars(select(Job.name).distinct())))
    return job


def _unknown_job(name: str, known: list[str]) -> UserError:
    return UserError(
        "unknown_job",
        f"there is no job {name!r}",
        str(paths.home()),
        f"jobs here: {', '.join(known)}" if known else "no job was submitted in this home",
        EXIT_USAGE,
    )


def _events(session: Session, args: Mapping[str, Any]) -> dict[str, Any]:
    after, limit = int(args.get("after") or 0), int(args.get("limit") or EVENTS_LIMIT)
    query = select(Event, Job.name).outerjoin(Job, Event.job_id == Job.id).where(Event.id > after)
    if args.get("job") is not None:
        query = query.where(Event.job_id == find_job(session, str(args["job"])).id)
    events = [
        {
            "id": event.id,
            "at": time_text(event.at_ms),
            "job": name,
            "kind": event.kind,
            "text": event.text,
            "data": json.loads(event.data_json),
        }
        for event, name in session.execute(query.order_by(Event.id).limit(limit))
    ]
    return {"events": events, "last": events[-1]["id"] if events else after}


def _output_since_ms(session: Session, job: Job) -> int:
    """Since when the job writes to its present folder: each resume on other data has its own."""
    resumed = select(Event.at_ms, Event.data_json).where(
        Event.job_id == job.id, Event.kind == "resumed"
    )
    changed = [at for at, data in session.execute(resumed) if json.loads(data).get("changed")]
    return max(changed, default=0)


def _source(session: Session, args: Mapping[str, Any]) -> dict[str, Any]:
    """Where the job came from, and how often it was resumed: for the next `resume`."""
    job = find_job(session, str(args["job"]))
    spec = spec_from_json(job.spec_json)
    uploads = [upload.local for upload in spec.runs[0].uploads if upload.remote.startswith("data/")]
    known = select(Artifact.name).where(
        Artifact.job_id == job.id,
        Artifact.stage == job.stage,
        Artifact.complete,
        Artifact.seen_ms >= _output_since_ms(session, job),
    )
    newest = session.scalars(known.order_by(Artifact.step.desc(), Artifact.id.desc())).first()
    output = f"../stage-{job.stage}/{spec.runs[job.stage].output_dir}"
    return {
        "job": job.name,
        "file": spec.source,
        "attempt": job.attempt,
        "data": uploads,
        "checkpoint": None if newest is None else f"{output}/{newest}",
    }


def _logs(session: Session, args: Mapping[str, Any]) -> dict[str, Any]:
    job = find_job(session, str(args["job"]))
    after = int(args.get("after") or 0)
    query = select(Telemetry).where(
        Telemetry.job_id == job.id,
        Telemetry.stage == job.stage,
        Telemetry.kind == "log",
        Telemetry.seq > after,
    )
    rows = session.scalars(query.order_by(Telemetry.seq).limit(LOG_ROWS)).all()
    lines = [line for row in rows for line in json.loads(row.data_json).get("lines") or []]
    return {"lines": lines, "last": rows[-1].seq if rows else after}


def _budgets(session: Session, caps: Caps, zone: ZoneInfo, now_ms: int) -> dict[str, Any]:
    budgets = {}
    for job in session.scalars(select(Job).order_by(Job.id)):
        for account in accounts(session, job, caps, (month_of(now_ms, zone),)):
            scope, _, name = account.scope.partition(" ")
            budgets[account.scope] = {
                "scope": scope,
                "name": name,
                "cap_yuan": yuan_text(account.cap_micros or 0),
                "spent_yuan": yuan_text(account.posted_micros),
                "reserved_yuan": yuan_text(account.pending_micros),
                "disk_yuan": yuan_text(account.hold_micros),
                "left_yuan": yuan_text(account.left_micros or 0),
            }
    return {
        "schema": "costguard.budget/1",
        "as_of": time_text(now_ms),
        "budgets": list(budgets.values()),
    }
