"""What a person may tell the daemon to do.

Each command is one transaction, kept in a table by its key, so that a repeated request is
answered and not carried out again.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core.decide import FINAL_STATES
from costguard.core.money import MoneyError, parse_yuan, yuan_text
from costguard.core.spec import JobSpec, spec_from_json
from costguard.daemon import visits
from costguard.daemon.attested import confirm_stopped
from costguard.daemon.fetch import pull
from costguard.daemon.foretell import works_from_json
from costguard.daemon.left_behind import left_behind
from costguard.daemon.load import job_spec, newest_instance
from costguard.daemon.plan import plan
from costguard.daemon.resume import resume
from costguard.daemon.reuse import with_reuse
from costguard.errors import EXIT_USAGE, UserError
from costguard.report.documents import find_job
from costguard.store.budgets import set_cap
from costguard.store.events import add_event
from costguard.store.ledger import accounts
from costguard.store.models import Command, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from costguard.core.lease import Account
    from costguard.daemon.context import Context
    from costguard.daemon.passes import JobPasses

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


class Commands:
    """The daemon's ears: every method is one command of the socket that changes something."""

    def __init__(
        self,
        context: Context,
        wake: Callable[[], None],
        passes: Callable[[int], JobPasses | None] = lambda _: None,
    ) -> None:
        """`passes` gives the passes of one job: they know how its instance is reached now."""
        self._context = context
        self._wake = wake
        self._passes = passes

    def quote(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """What a job would cost at most and who would enforce it; rents nothing."""
        return self._planned(_spec(args), args)[1]

    def submit(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Take a job, unless its budget cannot pay for even a first lease."""
        spec, key = _spec(args), _key(args)
        with self._context.store.read() as session:
            known = session.scalars(select(Command).where(Command.key == key)).first()
            if known is not None:
                kept: dict[str, Any] = json.loads(known.result_json)
                return kept
        spec, answer = self._planned(spec, args)
        reuse = answer["reuse"]
        now = self._context.clock.now()
        with self._context.store.write() as session:
            _refuse_unfinished_namesake(session, spec)
            job = Job(
                name=spec.name,
                project=spec.project,
                spec_json=spec.to_json(),
                submit_key=key,
                created_ms=now.utc_ms,
                state="queued",
                cap_micros=spec.cap_micros,
            )
            session.add(job)
            session.flush()
            cap = yuan_text(spec.cap_micros)
            add_event(
                session, job.id, now.utc_ms, "submitted", f"submitted with a cap of {cap} yuan"
            )
            if reuse is not None:
                text = f"goes on on {reuse['instance']}, paused since {reuse['paused_since']}"
                add_event(session, job.id, now.utc_ms, "reuse", text, reuse)
            self._keep(session, key, "submit", {"name": spec.name}, answer)
        self._wake()
        return answer

    def _planned(self, spec: JobSpec, args: Mapping[str, Any]) -> tuple[JobSpec, dict[str, Any]]:
        """The job as it would be taken, and what is said of it before."""
        spec, found, lines = with_reuse(self._context, spec)
        answer = plan(self._context, spec, works=works_from_json(args.get("work")))
        reuse = None if found is None else found.document
        return spec, {**answer, "reuse": reuse, "lines": [*lines, *answer["lines"]]}

    def pause(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Have one job, or all of them, saved and stopped."""
        return self._wish(args, "pause")

    def release(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Have the job's instance given back; it is stopped first, and seen to be."""
        answer = self._wish(args, "release")
        with self._context.store.read() as session:
            job = find_job(session, str(args.get("job")))
            facts = self._context.provider(job_spec(job).instance.provider).facts
            return answer if facts.can_create else {**answer, "left": left_behind(session, job)}

    def resume(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Have a paused job go on."""
        answer = resume(self._context, args)
        self._wake()
        return answer

    def pull(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Bring home what an ended job's disk still holds."""
        answer = pull(self._context, args)
        self._wake()
        return answer

    def visit(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Have an ended job's instance switched on for a person, for a while."""
        answer = visits.visit(self._context, args)
        self._wake()
        return answer

    def visit_touch(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The visitor is still there; how the visit stands, and how to log in."""
        with self._context.store.read() as session:
            job_id = find_job(session, str(args.get("job"))).id
        passes = self._passes(job_id)
        return visits.touch(self._context, args, None if passes is None else passes.way_in)

    def visit_end(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The visitor has left."""
        answer = visits.leave(self._context, args)
        self._wake()
        return answer

    def confirm_stopped(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Take a person's word for a stop that no platform can prove."""
        answer = confirm_stopped(self._context, args)
        self._wake()
        return answer

    def budget_set(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Set a cap on the fly, up or down; the next pass of every job acts on it."""
        scope, name = str(args.get("scope")), str(args.get("name"))
        cap_micros = _yuan(args.get("yuan"))
        now = self._context.clock.now()
        with self._context.store.write() as session:
            job_id: int | None = None
            old: int | None
            if scope == "job":
                job = find_job(session, name)
                job_id, old, job.cap_micros = job.id, job.cap_micros, cap_micros
            else:
                _refuse_unknown_scope(session, scope, name)
                old = set_cap(session, scope, name, cap_micros, now.utc_ms)
            before = "" if old is None else f" from {yuan_text(old)}"
            text = f"the cap of {scope} {name} went{before} to {yuan_text(cap_micros)} yuan"
            add_event(session, job_id, now.utc_ms, "cap_changed", text)
            session.flush()
            account = self._account(session, scope, name)
        self._wake()
        left = None if account is None else account.left_micros
        return {
            scope: name,
            "cap_yuan": yuan_text(cap_micros),
            "left_yuan": yuan_text(cap_micros if left is None else left),
        }

    def _account(self, session: Session, scope: str, name: str) -> Account | None:
        """The scope's account as it now stands; None where nothing was ever booked in it."""
        query = select(Job).order_by(Job.id.desc())
        if scope != "month":
            query = query.where(getattr(Job, "name" if scope == "job" else "project") == name)
        job = session.scalars(query.limit(1)).first()
        if job is None:
            return None
        months = (name,) if scope == "month" else ()
        found = accounts(session, job, self._context.caps(), months)
        return next(each for each in found if each.scope == f"{scope} {name}")

    def _wish(self, args: Mapping[str, Any], wish: str) -> dict[str, Any]:
        now = self._context.clock.now()
        with self._context.store.write() as session:
            if args.get("all"):
                jobs = list(session.scalars(select(Job).where(Job.state.not_in(FINAL_STATES))))
            else:
                jobs = [find_job(session, str(args.get("job")))]
            for job in jobs:
                job.wish = wish
                add_event(session, job.id, now.utc_ms, "asked", f"{wish} was asked for")
            answer = {"jobs": [job.name for job in jobs]}
        self._wake()
        return answer

    def _keep(
        self, session: Session, key: str, do: str, args: Mapping[str, Any], result: Any
    ) -> None:
        session.add(
            Command(
                key=key,
                do=do,
                args_json=json.dumps(args, ensure_ascii=False),
                created_ms=self._context.clock.now().utc_ms,
                result_json=json.dumps(result, ensure_ascii=False),
            )
        )


def _spec(args: Mapping[str, Any]) -> JobSpec:
    try:
        return spec_from_json(str(args["spec"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "bad_spec", f"the job is not understood: {error}", "socket", "update costguard"
        ) from error


def _key(args: Mapping[str, Any]) -> str:
    """What makes a repeated request the same one; without it two could not be told apart."""
    key = args.get("key")
    if not isinstance(key, str) or not key:
        raise UserError("bad_request", "a submission needs a key of its own", "socket")
    return key


def _yuan(value: object) -> int:
    try:
        return parse_yuan(value)
    except MoneyError as error:
        hint = "give an amount of yuan, such as 80"
        raise UserError("bad_budget", str(error), "budget set", hint, EXIT_USAGE) from error


def _refuse_unknown_scope(session: Session, scope: str, name: str) -> None:
    """A slip in a name must not set a cap that never binds."""
    if scope == "month" and not _MONTH.fullmatch(name):
        what, hint = f"{name!r} is no month", "such as 2026-11"
        raise UserError("unknown_month", what, "budget set --month", hint, EXIT_USAGE)
    if scope == "project":
        known = sorted(set(session.scalars(select(Job.project))))
        if name not in known:
            hint = f"projects here: {', '.join(known) or 'none yet'}; a new one's goes into config"
            what = f"no job of a project {name!r} was ever submitted"
            raise UserError("unknown_project", what, "budget set --project", hint, EXIT_USAGE)
    if scope not in ("month", "project"):
        what = f"there are no caps of a {scope!r}"
        raise UserError("unknown_scope", what, "budget set", "job, project or month", EXIT_USAGE)


def _refuse_unfinished_namesake(session: Session, spec: JobSpec) -> None:
    """Two unfinished jobs of one name would be told apart by nobody."""
    query = select(Job).where(Job.name == spec.name).order_by(Job.id.desc())
    job = session.scalars(query.limit(1)).first()
    if job is None or job.state in ("finished", "released"):
        return
    hint = f"wait for it, pause it (`costguard pause {spec.name}`), or choose another name"
    if job.state in FINAL_STATES:
        if newest_instance(session, job.id) is None:
            return  # nothing was ever rented for it: there is nothing to go on with
        hint = (
            f"go on with it: `costguard resume {spec.name}`; or give its disk back first "
            f"(`costguard release {spec.name}`), or choose another name"
        )
    raise UserError(
        "job_exists",
        f"a job named {spec.name!r} is {job.state}, and not finished",
        spec.source or "[job] name",
        hint,
    )
