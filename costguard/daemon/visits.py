"""Visits: an ended job's instance is switched on for a person, held for a while, and switched off.

`shell`, `chat` and `export` work over such a visit. The daemon only holds the machine, under
leases like any other's and never beyond the visit's end; the visitor's own process logs in, and
gives a sign of life every few seconds for as long as it stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.core.calendar import month_of
from costguard.core.decide import FINAL_STATES, FIRST_LEASE_SHORTEST_MS
from costguard.core.lease import offer_lease, paid_left_ms
from costguard.core.meter import lease_interval
from costguard.core.moment import MS_PER_S, elapsed_ms
from costguard.core.money import yuan_text
from costguard.core.spec import spec_from_json
from costguard.core.tariff import list_price_micros
from costguard.daemon.fetch import refuse_unbegun
from costguard.daemon.let_go import who_has_it_now
from costguard.daemon.load import metered, newest_instance, open_interval
from costguard.daemon.plan import latency_of, plan
from costguard.errors import EXIT_REFUSED, EXIT_USAGE, UserError
from costguard.report.documents import find_job
from costguard.store.events import add_event
from costguard.store.ledger import accounts
from costguard.store.models import Job, VisitRow
from costguard.store.tariffs import tariff_of
from costguard.store.visits import end_holding, visit_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.daemon.context import Context
    from costguard.remote.link import LinkPlan

PURPOSES = ("shell", "chat", "export")
TO_DO = {"chat": "talk to", "export": "export"}  # with a result; a shell needs none
SHORTEST_MS = 10_000
LONGEST_MS = 24 * 3_600_000
HEARD_EACH_MS = 5_000  # a sign of life is written down so often


def visit(context: Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """Have an ended job's instance switched on for a person; with `quote`, only say what it costs.

    Raises UserError where there is no instance, or the budget does not reach for a first lease.
    """
    purpose, length_ms = _asked(args)
    with context.store.read() as session:
        job = find_job(session, str(args.get("job")))
        _refuse_pointless(session, job, purpose)
        job_id, spec = job.id, spec_from_json(job.spec_json)
    answer = {**plan(context, spec, job_id), **_bound(context, job_id, length_ms)}
    if args.get("quote"):
        return answer
    now = context.clock.now()
    with context.store.write() as session:
        job = find_job(session, str(args.get("job")))
        _refuse_pointless(session, job, purpose)
        row = VisitRow(
            job_id=job.id,
            purpose=purpose,
            length_ms=length_ms,
            asked_ms=now.utc_ms,
        )
        _hear(row, now)
        session.add(row)
        session.flush()
        job.wish, job.state = "visit", "queued"
        job.retry_at_ms = job.closed_ms = None
        text = f"{purpose} was asked for, for {length_ms // MS_PER_S} s"
        add_event(session, job.id, now.utc_ms, "visit", text, {"visit": row.id})
        return {**answer, "visit": row.id}


def touch(context: Context, args: Mapping[str, Any], way_in: LinkPlan | None) -> dict[str, Any]:
    """A sign of life of the visitor; what they need to know: `coming`, `ready` (and how) or `over`.

    `paid_left_s`: how long it could still run within what is paid already (hourly tariffs).
    """
    now = context.clock.now()
    with context.store.read() as session:
        row, job = _visit_of(session, args)
        over = row.why is not None or row.closed_ms is not None or job.wish != "visit"
        stale = elapsed_ms(_heard(row), now) >= HEARD_EACH_MS
        answer = {"job": job.name, "state": job.state, "why": row.why or _wish_text(job)}
        if not over:
            answer |= _standing(session, context, job, row, now)
            ready = None if way_in is None else _way_in(session, job, way_in)
            answer |= {"visit": "coming"} if ready is None else {"visit": "ready", **ready}
    if over:
        return {**answer, "visit": "over"}
    if stale:
        with context.store.write() as session:
            _hear(session.get_one(VisitRow, row.id), now)
    return answer


def leave(context: Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """The visitor has left: the instance is switched off now."""
    now = context.clock.now()
    with context.store.write() as session:
        row, job = _visit_of(session, args)
        if row.why is None and job.wish == "visit":
            end_holding(session, job, now.utc_ms, "the visitor has left")
    return {"job": job.name}


def _asked(args: Mapping[str, Any]) -> tuple[str, int]:
    purpose, length_ms = args.get("purpose"), args.get("length_ms")
    if purpose not in PURPOSES or not isinstance(length_ms, int) or isinstance(length_ms, bool):
        raise UserError("bad_request", "this visit is not understood", "socket", "")
    if not SHORTEST_MS <= length_ms <= LONGEST_MS:
        what = f"{length_ms // MS_PER_S} s is no length for a visit: from 10 s to 24 hours"
        raise UserError("bad_length", what, "--for", "such as --for 30m", EXIT_USAGE)
    return str(purpose), length_ms


def _refuse_pointless(session: Session, job: Job, purpose: str) -> None:
    if job.state not in FINAL_STATES:
        what = f"{job.name} is {job.state}: its instance is in use"
        hint = f"wait for its end, or pause it first: costguard pause {job.name}"
        raise UserError("not_ended", what, job.name, hint, EXIT_USAGE)
    instance = newest_instance(session, job.id)
    gone = instance is None or instance.released_ms is not None or instance.provider_id is None
    if job.state == "released" or gone:
        none = f"{job.name} has no instance any more: there is nothing to switch on"
        what = who_has_it_now(session, job) or none
        hint = "what came home is in its artifacts folder; --here needs no instance"
        raise UserError("released", what, job.name, hint, EXIT_REFUSED)
    if purpose in TO_DO:
        refuse_unbegun(session, job, TO_DO[purpose])


def _bound(context: Context, job_id: int, length_ms: int) -> dict[str, Any]:
    """What the visit costs at most, its stop included, and how far the caps reach for it."""
    now = context.clock.now()
    with context.store.read() as session:
        job, instance = session.get_one(Job, job_id), newest_instance(session, job_id)
        assert instance is not None, "a visit without an instance is refused before"
        tariff, spec = tariff_of(instance), spec_from_json(job.spec_json)
        scopes = accounts(session, job, context.caps(), (month_of(now.utc_ms, context.zone),))
    facts = context.provider(spec.instance.provider).facts
    latency_ms = latency_of(spec, facts)
    offer = offer_lease(
        tariff, None, None, scopes, now, length_ms, latency_ms, FIRST_LEASE_SHORTEST_MS
    )
    if offer is None:
        what = f"the budget of {job.name} does not reach for a visit"
        hint = f"raise it: costguard budget set --job {job.name} YUAN"
        raise UserError("budget_too_small", what, job.name, hint, EXIT_REFUSED)
    return {
        "price_yuan_per_hour": yuan_text(list_price_micros(tariff, now.utc_ms)),
        "quantum_s": tariff.quantum_s,
        "visit_s": length_ms // MS_PER_S,
        "reach_s": offer.length_ms // MS_PER_S,
        "visit_most_yuan": yuan_text(offer.increment_micros),
    }


def _visit_of(session: Session, args: Mapping[str, Any]) -> tuple[VisitRow, Job]:
    job = find_job(session, str(args.get("job")))
    number = args.get("visit")
    row = session.get(VisitRow, number) if isinstance(number, int) else None
    if row is None or row.job_id != job.id:
        what = f"{job.name} has no visit {number!r}"
        raise UserError("no_visit", what, job.name, f"costguard status {job.name}", EXIT_USAGE)
    return row, job


def _wish_text(job: Job) -> str | None:
    return None if job.wish == "visit" else f"{job.wish} was asked for"


def _standing(
    session: Session, context: Context, job: Job, row: VisitRow, now: Moment
) -> dict[str, Any]:
    """How long it may stay: by its own time, and by what is paid already."""
    instance = newest_instance(session, job.id)
    running = None if instance is None else open_interval(session, instance.id, "running")
    spec = spec_from_json(job.spec_json)
    paid_ms = 0
    if running is not None:
        latency_ms = latency_of(spec, context.provider(spec.instance.provider).facts)
        interval = lease_interval(metered(running), now)
        paid_ms = paid_left_ms(tariff_of(running), interval, now, latency_ms)
    left_ms = row.length_ms if row.until_utc_ms is None else max(row.until_utc_ms - now.utc_ms, 0)
    return {"left_s": left_ms // MS_PER_S, "paid_left_s": paid_ms // MS_PER_S}


def _way_in(session: Session, job: Job, plan: LinkPlan) -> dict[str, Any] | None:
    """How to log in, with the host key that is pinned; None while none is yet."""
    target, instance = plan.target, newest_instance(session, job.id)
    host_keys = list(target.host_keys)
    if not host_keys and instance is not None and instance.host_key:
        host_keys = instance.host_key.splitlines()
    if not host_keys:
        return None
    password = target.password
    return {
        "ssh": {
            "host": target.host,
            "port": target.port,
            "user": target.user,
            "host_keys": host_keys,
            "key_file": str(target.client_key_path),
            "password": None if password is None else password.get_secret_value(),
        },
        "job_dir": f"{plan.job_dir.rpartition('/')[0]}/stage-{job.stage}",
        "visit_dir": plan.job_dir,
    }


def _hear(row: VisitRow, now: Moment) -> None:
    row.heard_utc_ms, row.heard_boot_ms = now.utc_ms, now.boot_ms
    row.heard_boot_id = now.boot_id


def _heard(row: VisitRow) -> Moment:
    facts = visit_facts(row)
    assert facts is not None, "a row gives facts"
    return facts.heard
