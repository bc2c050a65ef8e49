"""What a person may tell the daemon to do.

Each command is one transaction, kept in a table by its key, so that a repeated request is
answered and not carried out again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core.decide import FINAL_STATES, FIRST_LEASE_SHORTEST_MS
from costguard.core.lease import Account, offer_lease
from costguard.core.money import MoneyError, parse_yuan, yuan_text
from costguard.core.spec import JobSpec, spec_from_json
from costguard.core.tariff import hold_micros, running_micros
from costguard.daemon.attested import confirm_stopped
from costguard.errors import EXIT_USAGE, UserError
from costguard.providers.base import Provider, ProviderError
from costguard.report.documents import find_job
from costguard.store.events import add_event
from costguard.store.ledger import pending_micros, posted_micros
from costguard.store.models import Command, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from costguard.daemon.context import Context


class Commands:
    """The daemon's ears: every method is one command of the socket that changes something."""

    def __init__(self, context: Context, wake: Callable[[], None]) -> None:
        self._context = context
        self._wake = wake

    def quote(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """What a job would cost at most and who would enforce it; rents nothing."""
        return self._plan(_spec(args))

    def submit(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Take a job, unless its budget cannot pay for even a first lease."""
        spec, key = _spec(args), _key(args)
        with self._context.store.read() as session:
            known = session.scalars(select(Command).where(Command.key == key)).first()
            if known is not None:
                answer: dict[str, Any] = json.loads(known.result_json)
                return answer
        plan = self._plan(spec)
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
            self._keep(session, key, "submit", {"name": spec.name}, plan)
        self._wake()
        return plan

    def pause(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Have one job, or all of them, saved and stopped."""
        return self._wish(args, "pause")

    def release(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Have the job's instance given back; it is stopped first, and seen to be."""
        return self._wish(args, "release")

    def confirm_stopped(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Take a person's word for a stop that no platform can prove."""
        answer = confirm_stopped(self._context, args)
        self._wake()
        return answer

    def budget_set(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Set a job's cap on the fly, up or down; the next pass acts on it."""
        if args.get("scope") != "job":
            raise UserError(
                "not_settable",
                f"the cap of a {args.get('scope')} is set in the config",
                "[budgets] in config.toml",
                "set month_yuan or projects there; it is read at each grant",
                EXIT_USAGE,
            )
        cap_micros = _yuan(args.get("yuan"))
        now = self._context.clock.now()
        with self._context.store.write() as session:
            job = find_job(session, str(args.get("name")))
            old, job.cap_micros = job.cap_micros, cap_micros
            text = f"the cap went from {yuan_text(old)} to {yuan_text(cap_micros)} yuan"
            add_event(session, job.id, now.utc_ms, "cap_changed", text)
            spent = posted_micros(session, job_id=job.id)
            pending = pending_micros(session, job_id=job.id)
            left = cap_micros - spent - pending - job.hold_micros
            answer = {
                "job": job.name,
                "cap_yuan": yuan_text(cap_micros),
                "left_yuan": yuan_text(left),
            }
        self._wake()
        return answer

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

    def _plan(self, spec: JobSpec) -> dict[str, Any]:
        """Price, worst case and enforcers; UserError with the arithmetic when it cannot fit."""
        provider = self._context.provider(spec.instance.provider)
        now = self._context.clock.now()
        try:
            quote = provider.quote(spec.instance.gpu)
        except ProviderError as error:
            raise UserError(
                "no_price",
                f"{spec.instance.provider} gave no price: {error}",
                "[instance]",
                "check the GPU's name and that the platform answers",
            ) from error
        tariff = quote.tariff
        hold = hold_micros(tariff, spec.instance.keep_for_ms)
        latency_ms = _latency_ms(spec, provider)
        account = Account(f"job {spec.name}", spec.cap_micros, 0, 0, hold)
        offer = offer_lease(
            tariff, None, None, (account,), now, spec.lease_ms, latency_ms, FIRST_LEASE_SHORTEST_MS
        )
        if offer is None:
            least_ms = min(FIRST_LEASE_SHORTEST_MS, spec.lease_ms) + latency_ms
            least = running_micros(tariff, least_ms) + hold
            raise UserError(
                "budget_too_small",
                f"a cap of {yuan_text(spec.cap_micros)} yuan does not reach for a first lease: "
                f"{least_ms // 1000} s at {yuan_text(tariff.price_micros_per_hour)} yuan/h "
                f"in steps of {tariff.quantum_s} s, plus {yuan_text(hold)} for the disk, need "
                f"{yuan_text(least)}",
                "[job] budget_yuan",
                "raise the budget, or keep the disk for a shorter time (keep_for)",
            )
        self._refuse_unenforceable(spec, provider)
        return {
            "job": spec.name,
            "price_yuan_per_hour": yuan_text(tariff.price_micros_per_hour),
            "quantum_s": tariff.quantum_s,
            "worst_case_yuan": yuan_text(spec.cap_micros),
            "enforcers": _enforcers(provider),
            "lines": [],
        }

    def _refuse_unenforceable(self, spec: JobSpec, provider: Provider) -> None:
        facts = provider.facts
        armed = facts.timer_min_lead_ms is not None or facts.in_guest_stop_proven
        if not armed and not spec.best_effort:
            raise UserError(
                "cap_not_enforceable",
                f"on {facts.name} nothing but this daemon could enforce the cap",
                "[instance] provider",
                "take it with --best-effort if you accept that",
            )


def _latency_ms(spec: JobSpec, provider: Provider) -> int:
    facts = provider.facts
    grace_ms = max(run.save_grace_ms for run in spec.runs)
    return grace_ms + facts.stop_latency_ms + facts.timer_lateness_ms


def _enforcers(provider: Provider) -> list[str]:
    """Who will stop the machine at a lease's end, in words."""
    facts = provider.facts
    found = ["daemon"]
    if facts.timer_min_lead_ms is not None:
        found.append("platform timer (read back)")
    if facts.in_guest_stop is not None:
        found.append("agent" if facts.in_guest_stop_proven else "agent (not proven)")
    return found


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


def _refuse_unfinished_namesake(session: Session, spec: JobSpec) -> None:
    """Two unfinished jobs of one name would be told apart by nobody."""
    query = select(Job).where(Job.name == spec.name, Job.state.not_in(FINAL_STATES))
    job = session.scalars(query).first()
    if job is not None:
        raise UserError(
            "job_exists",
            f"a job named {spec.name!r} is still {job.state}",
            spec.source or "[job] name",
            f"wait for it, pause it (`costguard pause {spec.name}`), or choose another name",
        )
