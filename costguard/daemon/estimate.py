"""`estimate`: what a job costs on everything that could be rented for it, cheapest first."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from costguard import paths
from costguard.core import lease
from costguard.core.calendar import month_of
from costguard.core.estimate import needed_mib, step_ms
from costguard.core.forecast import Fit
from costguard.core.money import yuan_text
from costguard.core.spec import model_of
from costguard.core.tariff import hold_micros
from costguard.daemon.accounts import account_names, open_to_ask
from costguard.daemon.foretell import billions_of, foretell, seen_before
from costguard.daemon.plan import latency_of, scopes_of
from costguard.daemon.reuse import paused_instance
from costguard.errors import UserError, in_a_sentence
from costguard.providers.base import Offer, ProviderError
from costguard.providers.shared import card
from costguard.report.figures import time_text
from costguard.store.database import read_only_session
from costguard.store.ledger import Caps

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy.orm import Session

    from costguard.core.forecast import Span, Work
    from costguard.core.moment import Moment
    from costguard.core.spec import JobSpec
    from costguard.core.tariff import Tariff
    from costguard.daemon.foretell import Foretold
    from costguard.daemon.reuse import Paused
    from costguard.providers.base import Account, ProviderFacts
    from costguard.report.observed import Observed
    from costguard.settings import Settings

ESTIMATE_SCHEMA = "costguard.estimate/1"
MS_PER_S = 1_000
MIB_PER_GIB = 1_024
SOURCES = {
    "MEASURED_HERE": "measured_here",
    "MEASURED_ELSEWHERE": "measured_elsewhere",
    "CALCULATED": "calculated",
}
FIT_ORDER = (Fit.FITS, Fit.TIGHT, Fit.SHORT)


@dataclass(frozen=True)
class Candidate:
    """One thing that could be rented, and what the job would be on it."""

    provider: str
    offer: Offer
    told: Foretold
    hold_micros: int


def estimate_document(
    settings: Settings, now: Moment, spec: JobSpec, works: tuple[Work, ...], *, in_4_bits: bool
) -> dict[str, Any]:
    """Every offer with the job's time and cost; what has no known speed is named in `unknown`.

    Offers whose card is too small for the model are left out. An account that gives no answer is
    named in `failed`, and the others are shown all the same.
    """
    need_mib = needed_mib(billions_of(model_of(spec.to_json())), in_4_bits=in_4_bits)
    found: list[Candidate] = []
    unknown: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    paused: Paused | None = None
    with _books() as session:
        if session is not None:
            paused = paused_instance(session, spec)
        judge = _Judge(settings, spec, now, session)
        for name in sorted({*account_names(settings), spec.instance.provider}):
            try:
                account = open_to_ask(settings, name)
                offers = _offers(account, name, spec, now)
            except (ProviderError, UserError) as error:
                failed.append({"provider": name, "what": in_a_sentence(error)})
                continue
            for offer in offers:
                if offer.memory_gib is not None and offer.memory_gib * MIB_PER_GIB < need_mib:
                    continue
                told = judge.told(name, offer, account.facts, works)
                if told is None:
                    unknown.append({"provider": name, "gpu": offer.gpu})
                else:
                    found.append(told)
    found.sort(key=_order)
    return {
        "schema": ESTIMATE_SCHEMA,
        "as_of": time_text(now.utc_ms),
        "job": spec.name,
        "cap_yuan": yuan_text(spec.cap_micros),
        "stages": [_stage(number, work) for number, work in enumerate(works)],
        "memory_gib_needed": -(-need_mib // MIB_PER_GIB),
        "reuse": None if paused is None or not paused.is_taken(spec) else paused.document,
        "plans": [_plan(each, spec, works) for each in found],
        "cheapest": _cheapest(found),
        "unknown": unknown,
        "failed": failed,
    }


def _books() -> AbstractContextManager[Session | None]:
    """The home's database to read in, where there is one."""
    database = paths.database_path()
    return read_only_session(database) if database.exists() else nullcontext()


def _offers(account: Account, name: str, spec: JobSpec, now: Moment) -> list[Offer]:
    """What the account has to offer, and first the instance that is to be adopted there."""
    wish = spec.instance
    offers = list(account.offers(wish.gpu_count))
    if wish.instance_id is None or wish.provider != name or name.startswith("ssh."):
        return offers  # a machine with SSH is the offer
    view = account.read(wish.instance_id, now)
    return [Offer(view.gpu or wish.gpu or "GPU", wish.gpu_count, view.tariff, True), *offers]


class _Judge:
    """Judges offers by the home's books; an empty home has none, and the file's caps stand."""

    def __init__(
        self, settings: Settings, spec: JobSpec, now: Moment, session: Session | None
    ) -> None:
        self._spec, self._now, self._session = spec, now, session
        self._month = month_of(now.utc_ms, ZoneInfo(settings.timezone))
        self._caps = Caps(settings.budgets.month_micros, settings.budgets.projects)
        self._seen: dict[str, Observed] = {}

    def told(
        self, provider: str, offer: Offer, facts: ProviderFacts, works: tuple[Work, ...]
    ) -> Candidate | None:
        """The job on this offer; None where the card's speed is not known."""
        if provider not in self._seen:
            self._seen[provider] = seen_before(self._session, self._spec, provider)
        told = foretell(
            self._spec,
            works,
            provider,
            (offer.gpu, offer.note),
            offer.gpu_count,
            offer.tariff,
            self._scopes(offer.tariff),
            self._now,
            facts.stop_latency_ms,
            latency_of(self._spec, facts),
            self._seen[provider],
        )
        hold = hold_micros(offer.tariff, self._spec.instance.keep_for_ms)
        return None if told is None else Candidate(provider, offer, told, hold)

    def _scopes(self, tariff: Tariff) -> tuple[lease.Account, ...]:
        if self._session is not None:
            return scopes_of(self._session, self._spec, tariff, self._caps, self._month)
        hold = hold_micros(tariff, self._spec.instance.keep_for_ms)
        caps = [
            (f"job {self._spec.name}", self._spec.cap_micros),
            (f"month {self._month}", self._caps.month_micros),
            (
                f"project {self._spec.project}",
                (self._caps.project_micros or {}).get(self._spec.project),
            ),
        ]
        return tuple(
            lease.Account(scope, cap, 0, 0, hold) for scope, cap in caps if cap is not None
        )


def _order(each: Candidate) -> tuple[bool, int, str, str]:
    """What has stock or does not say first, then by what it likely costs with its disk."""
    cost = each.told.estimate.whole.cost_micros.likely + each.hold_micros
    return (each.offer.in_stock is False, cost, each.provider, each.offer.gpu)


def _cheapest(found: list[Candidate]) -> int | None:
    """The place of the cheapest that fits: for sure, else likely; None where none does."""
    for fit in FIT_ORDER[:2]:
        for place, each in enumerate(found):
            if each.told.estimate.whole.fit is fit and each.offer.in_stock is not False:
                return place
    return None


def _stage(number: int, work: Work) -> dict[str, Any]:
    return {
        "stage": number,
        "samples": work.samples,
        "samples_per_step": work.samples_per_step,
        "epochs": str(work.epochs) if work.epochs.denominator == 1 else f"{float(work.epochs):.4g}",
        "steps": work.steps,
        "tokens": round(work.tokens * work.epochs),
    }


def _plan(each: Candidate, spec: JobSpec, works: tuple[Work, ...]) -> dict[str, Any]:
    told, offer = each.told, each.offer
    whole, bite = told.estimate.whole, told.estimate.bite
    wish = spec.instance
    asked_for = each.provider == wish.provider and (
        wish.gpu is None or card(offer.gpu) == card(wish.gpu)
    )
    return {
        "provider": each.provider,
        "gpu": offer.gpu,
        "gpu_count": offer.gpu_count,
        "region": offer.region,
        "is_asked_for": asked_for,
        "in_stock": offer.in_stock,
        "price_yuan_per_hour": yuan_text(offer.tariff.price_micros_per_hour),
        "tokens_per_s": told.speed.tokens_per_s,
        "speed_kind": SOURCES[told.source.name],
        "speed_source": told.speed.source,
        "step_ms": [step_ms(work, told.throughput) for work in works],
        "measured_parts": list(told.measured),
        "parts": [
            {
                "what": part.what,
                "stage": part.stage,
                "steps": part.steps or None,
                **_times(part.time_ms),
                **_yuan(cost),
            }
            for part, cost in zip(told.estimate.parts, told.estimate.costs, strict=True)
        ],
        **_times(whole.time_ms),
        **_yuan(whole.cost_micros),
        "disk_yuan": yuan_text(each.hold_micros),
        "fit": whole.fit.value,
        "reaches_s": None if whole.runway_ms is None else max(whole.runway_ms, 0) // MS_PER_S,
        "bites_at": None
        if bite is None
        else {"what": bite.what, "stage": bite.stage, "step": bite.step},
    }


def _times(span: Span) -> dict[str, int]:
    return {
        "time_low_s": span.low // MS_PER_S,
        "time_s": span.likely // MS_PER_S,
        "time_high_s": span.high // MS_PER_S,
    }


def _yuan(span: Span) -> dict[str, str]:
    return {
        "cost_low_yuan": yuan_text(span.low),
        "cost_yuan": yuan_text(span.likely),
        "cost_high_yuan": yuan_text(span.high),
    }
