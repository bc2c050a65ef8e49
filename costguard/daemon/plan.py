"""What a job would cost at most and who would enforce it, said before anything is rented."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costguard.core.calendar import month_of
from costguard.core.decide import FIRST_LEASE_SHORTEST_MS
from costguard.core.lease import Account, Offer, aside_micros, offer_lease
from costguard.core.moment import MS_PER_S
from costguard.core.money import yuan_text
from costguard.core.tariff import Tariff, hold_micros, running_micros
from costguard.daemon.adopt import check_adoption
from costguard.daemon.asking import price_of
from costguard.daemon.foretell import foretell, seen_before, warnings
from costguard.daemon.load import platform_of
from costguard.errors import EXIT_REFUSED, UserError
from costguard.providers.base import Provider, ProviderError, ProviderFacts, Quote
from costguard.store.drilled import timer_fires
from costguard.store.ledger import accounts
from costguard.store.models import Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.forecast import Work
    from costguard.core.moment import Moment
    from costguard.core.spec import JobSpec
    from costguard.daemon.context import Context
    from costguard.daemon.foretell import Foretold
    from costguard.store.ledger import Caps

NO_ROW = -1  # stands for a job that has no row yet: nothing is booked under it


def plan(
    context: Context,
    spec: JobSpec,
    job_id: int = NO_ROW,
    works: tuple[Work, ...] = (),
    *,
    new_disk: bool = False,
) -> dict[str, Any]:
    """Price, worst case and enforcers; UserError with the arithmetic where it cannot begin.

    `job_id` names a job that is to go on: what it has spent counts. With `works` it is foretold
    whether the budget reaches to the end. With `new_disk` it goes on on a new instance, whose disk
    is held for beside the old one's.
    """
    provider = context.provider(spec.instance.provider)
    now = context.clock.now()
    check_adoption(context, provider, spec, job_id, now)
    quote = _quote(context, provider, spec, now)
    tariff = quote.tariff
    scopes = _accounts(context, spec, tariff, job_id, now, new_disk=new_disk)
    latency_ms = latency_of(spec, provider.facts)
    offer = offer_lease(
        tariff, None, None, scopes, now, spec.lease_ms, latency_ms, FIRST_LEASE_SHORTEST_MS
    )
    if offer is None:
        raise _does_not_fit(spec, tariff, scopes, latency_ms, now.utc_ms)
    _refuse_unenforceable(spec, provider.facts)
    foretold = _foretold(context, provider, spec, works, quote, scopes, latency_ms, now)
    bounds = _bounds(provider.facts, tariff, now.utc_ms) + _assumed(spec, provider.facts)
    if job_id == NO_ROW or new_disk:
        bounds += _beyond_aside(spec, provider.facts, tariff, scopes, offer, now)
    return {
        "job": spec.name,
        "price_yuan_per_hour": yuan_text(tariff.price_micros_per_hour),
        "quantum_s": tariff.quantum_s,
        "worst_case_yuan": yuan_text(spec.cap_micros),
        "enforcers": _enforcers(context, provider.facts),
        "lines": warnings(foretold) + bounds,
    }


def _foretold(
    context: Context,
    provider: Provider,
    spec: JobSpec,
    works: tuple[Work, ...],
    quote: Quote,
    scopes: tuple[Account, ...],
    latency_ms: int,
    now: Moment,
) -> Foretold | None:
    """The forecast for the card that is asked for; None where its size or speed is not known."""
    if not works:
        return None
    wish, stop_ms = spec.instance, provider.facts.stop_latency_ms
    with context.store.read() as session:
        seen = seen_before(session, spec, wish.provider)
    names = (quote.gpu, wish.gpu or "")
    return foretell(
        spec,
        works,
        wish.provider,
        names,
        wish.gpu_count,
        quote.tariff,
        scopes,
        now,
        stop_ms,
        latency_ms,
        seen,
    )


def latency_of(spec: JobSpec, facts: ProviderFacts) -> int:
    """L in milliseconds: the longest time from "stop" to "meter stopped", as the books have it."""
    return platform_of(facts).latency_ms(max(run.save_grace_ms for run in spec.runs))


def _quote(context: Context, provider: Provider, spec: JobSpec, now: Moment) -> Quote:
    try:
        return price_of(provider, spec, context.client_public_key, now)
    except ProviderError as error:
        raise UserError(
            "no_price",
            f"{spec.instance.provider} gave no price: {error}",
            "[instance]",
            "check the GPU's name and that the platform answers",
        ) from error


def _accounts(
    context: Context,
    spec: JobSpec,
    tariff: Tariff,
    job_id: int,
    now: Moment,
    *,
    new_disk: bool,
) -> tuple[Account, ...]:
    """Every scope's account as it would be with this job's disk held in it."""
    month = month_of(now.utc_ms, context.zone)
    with context.store.read() as session:
        known = session.get(Job, job_id)
        if known is not None and not new_disk:
            return accounts(session, known, context.caps(), (month,))
        return scopes_of(session, spec, tariff, context.caps(), month, known)


def scopes_of(
    session: Session,
    spec: JobSpec,
    tariff: Tariff,
    caps: Caps,
    month: str,
    known: Job | None = None,
) -> tuple[Account, ...]:
    """The accounts of a job (one without a row yet, if not given), a new disk held in each."""
    job = known or Job(
        id=NO_ROW,
        name=spec.name,
        project=spec.project,
        cap_micros=spec.cap_micros,
        hold_micros=0,
    )
    found = accounts(session, job, caps, (month,))
    hold = hold_micros(tariff, spec.instance.keep_for_ms)
    return tuple(replace(each, hold_micros=each.hold_micros + hold) for each in found)


def _does_not_fit(
    spec: JobSpec, tariff: Tariff, scopes: tuple[Account, ...], latency_ms: int, now_ms: int
) -> UserError:
    least_ms = min(FIRST_LEASE_SHORTEST_MS, spec.lease_ms) + latency_ms
    need = running_micros(tariff, now_ms, now_ms + least_ms)
    tight = min(
        (scope for scope in scopes if scope.left_micros is not None),
        key=lambda scope: scope.left_micros or 0,
    )
    return UserError(
        "budget_too_small",
        f"the budget of {tight.scope} does not reach for a first lease: "
        f"cap {yuan_text(tight.cap_micros or 0)} - spent {yuan_text(tight.posted_micros)} "
        f"- reserved {yuan_text(tight.pending_micros)} - disk {yuan_text(tight.hold_micros)} "
        f"leaves {yuan_text(tight.left_micros or 0)} yuan; {least_ms // MS_PER_S} s at "
        f"{yuan_text(tariff.price_micros_per_hour)} yuan/h in steps of {tariff.quantum_s} s "
        f"need {yuan_text(need)}",
        "[job] budget_yuan" if tight.scope.startswith("job ") else f"budget of {tight.scope}",
        "raise the budget, or keep the disk for a shorter time (keep_for)",
    )


def _refuse_unenforceable(spec: JobSpec, facts: ProviderFacts) -> None:
    """I6: a cap that nothing but this process could enforce is taken only where that was asked."""
    armed = facts.timer_min_lead_ms is not None or facts.in_guest_stop_proven
    armed = armed and facts.can_stop
    if not armed and not spec.best_effort:
        raise UserError(
            "cap_not_enforceable",
            f"on {facts.name} nothing but this daemon could enforce the cap",
            "[instance] provider",
            "take it with --best-effort if you accept that",
            EXIT_REFUSED,
        )


def _enforcers(context: Context, facts: ProviderFacts) -> list[str]:
    """Who will stop the machine at a lease's end, in words."""
    found = ["daemon"] if facts.can_stop else ["nobody but you"]
    if facts.timer_min_lead_ms is not None:
        found.append(f"platform timer (read back{_unseen(context, facts)})")
    if facts.timer_is_fixed:
        found.append("platform deadline (set once, never read back)")
    if facts.in_guest_stop is not None:
        own = "your command, not proven" if facts.in_guest_stop_given else "not proven"
        found.append("agent" if facts.in_guest_stop_proven else f"agent ({own})")
    return found


def _unseen(context: Context, facts: ProviderFacts) -> str:
    """What is said of a timer that nobody has seen stop an instance of this account."""
    with context.store.read() as session:
        if timer_fires(session, facts.name):
            return ""
    return f"; never seen to fire: `costguard doctor --provider {facts.name} --drill`"


def _assumed(spec: JobSpec, facts: ProviderFacts) -> list[str]:
    """What a long lease trusts beyond what a short one does: that the price stays."""
    if not spec.long_leases or not facts.in_guest_stop_proven:
        return []
    what = "a price raised while this machine sleeps is counted only once it is awake"
    return [f"long leases: {what}; until then it can carry the job past its cap"]


def _beyond_aside(
    spec: JobSpec,
    facts: ProviderFacts,
    tariff: Tariff,
    scopes: tuple[Account, ...],
    offer: Offer,
    now: Moment,
) -> list[str]:
    """What a second instance of the one create call may cost beyond what the caps have room for."""
    platform = platform_of(facts)
    if platform.creates_once or spec.instance.instance_id is not None:
        return []
    whole = running_micros(tariff, now.utc_ms, now.utc_ms + platform.double_ms)
    double_ms, latency_ms = platform.double_ms, latency_of(spec, facts)
    beyond = whole - aside_micros(tariff, None, scopes, offer, now, double_ms, latency_ms)
    if beyond <= 0:
        return []
    what = "should the platform make two instances of one call, the second is stopped"
    return [f"{what}; up to {yuan_text(beyond)} yuan of it are not reserved: the cap has no room"]


def _bounds(facts: ProviderFacts, tariff: Tariff, now_ms: int) -> list[str]:
    """What the cap does not cover, with its price: an hour of it where nothing bounds it."""
    price = yuan_text(tariff.price_micros_per_hour)
    if not facts.can_stop:
        at = f" at {facts.console_url}" if facts.console_url else ""
        by_hand = f"only you can stop it{at}: it is charged until you say that you have"
        return [f"best effort: {by_hand}; each hour costs {price} yuan"]
    if facts.timer_min_lead_ms is None and not facts.in_guest_stop_proven:
        bound = "nothing bounds the cost if this machine dies: each hour until somebody stops it"
        return [f"best effort: {bound} costs {price} yuan"]
    if facts.arms_timer_at_create:
        return []
    unarmed_ms = facts.stop_latency_ms + 2 * facts.poll_interval_ms
    bound = yuan_text(running_micros(tariff, now_ms, now_ms + unarmed_ms))
    gap = f"from the start to the first armed timer or lease, about {unarmed_ms // MS_PER_S} s"
    return [f"{gap} ({bound} yuan), this daemon alone stops it; if it dies then: {price} yuan/h"]
