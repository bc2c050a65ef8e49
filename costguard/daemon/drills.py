"""The drill's other half: a job that the daemon rents, meters and gives back, and holds still for.

A drill shows that a platform's timer stops an instance without us. Its instance is a job's like
any other: reserved for before it is rented, charged second by second, stopped at its lease's end.
Only until then the daemon decides nothing (`core.decide`); who drills has the instance in hand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costguard.core.lease import needed_micros
from costguard.core.money import yuan_text
from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.core.tariff import hold_micros, running_micros
from costguard.daemon.accounts import open_to_ask
from costguard.daemon.asking import price_of
from costguard.daemon.plan import latency_of
from costguard.errors import UserError
from costguard.providers.base import ProviderError
from costguard.providers.drill import drill, spans_ms
from costguard.report.documents import find_job
from costguard.store.drilled import Proof, keep_proof
from costguard.store.events import add_event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from costguard.core.moment import Moment
    from costguard.daemon.context import Context
    from costguard.providers.base import Account, ProviderFacts
    from costguard.providers.checkup import Finding
    from costguard.settings import Settings

PROJECT = "drills"
SCHEMA = "costguard.drill/1"


def check_drillable(facts: ProviderFacts) -> None:
    """UserError where there is no timer that a drill could prove."""
    if facts.timer_kind == "lease" and facts.can_create:
        return
    hint = f"`costguard doctor --provider {facts.name}` tells who else can stop an instance there"
    if facts.timer_is_fixed:
        what = f"{facts.name} takes a deadline at create alone: it cannot be armed as a lease"
    else:
        what = (
            f"{facts.name} has no stop timer of its own: there is nothing that a drill could prove"
        )
    raise UserError("no_timer", what, f"[providers.{facts.name}]", hint)


def look_before(settings: Settings, name: str) -> None:
    """UserError, before any daemon is started for it, where a drill cannot be had."""
    try:
        facts = open_to_ask(settings, name).facts
    except UserError as error:
        if error.code == "not_running":
            return  # the platform on this machine, which the daemon starts
        raise
    check_drillable(facts)


def drill_plan(context: Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """What a drill on an account costs, as a rule and at most, and the job that it would be."""
    name = str(args.get("provider"))
    provider, now = context.provider(name), context.clock.now()
    check_drillable(provider.facts)
    wish = InstanceWish(name, gpu=args.get("gpu"), image=args.get("image"), keep_for_ms=0)
    usual_ms, most_ms = spans_ms(provider.facts)
    spec = JobSpec(
        name=f"drill-{name}-{now.utc_ms // 1_000}",
        project=PROJECT,
        cap_micros=0,
        best_effort=False,
        instance=wish,
        runs=(Run(argv=("true",), save_grace_ms=0),),
        drill=True,
    )
    try:
        quote = price_of(provider, spec, context.client_public_key, now)
    except ProviderError as error:
        what = f"{name} gave no price: {error}"
        raise UserError("no_price", what, f"[providers.{name}]", "--gpu, --image") from error
    tariff = quote.tariff
    # It is switched on twice: where whole hours are billed, the second begins another one.
    lease_ms = most_ms + tariff.quantum_s * 1_000
    wish = replace(wish, gpu=quote.gpu, keep_for_ms=lease_ms)
    most = needed_micros(tariff, None, now, lease_ms, latency_of(spec, provider.facts))
    most += hold_micros(tariff, lease_ms)
    usual = 2 * running_micros(tariff, now.utc_ms, now.utc_ms + usual_ms // 2)
    spec = replace(spec, instance=wish, lease_ms=lease_ms, cap_micros=most)
    return {
        "spec": spec.to_json(),
        "job": spec.name,
        "gpu": quote.gpu,
        "price_yuan_per_hour": yuan_text(tariff.price_micros_per_hour),
        "quantum_s": tariff.quantum_s,
        "usual_minutes": -(-usual_ms // 60_000),
        "usual_yuan": yuan_text(min(usual, most)),
        "most_yuan": yuan_text(most),
    }


def run_drill(
    settings: Settings,
    name: str,
    instance_id: str,
    clock: Callable[[], Moment],
    sleep: Callable[[float], None],
    tell: Callable[[Finding], None],
) -> dict[str, Any]:
    """What the drill showed, as a document. Called in the process of whoever asked for it."""
    account: Account = open_to_ask(settings, name)
    shown = drill(account, instance_id, clock, sleep, tell)
    return {
        "schema": SCHEMA,
        "provider": name,
        "is_fine": shown.is_fine,
        "timer_is_proven": shown.timer_is_proven,
        "findings": [
            {"what": each.what, "is_fine": each.is_fine, "text": each.text}
            for each in shown.findings
        ],
        "start_ms": shown.start_ms,
        "timer_late_ms": shown.timer_late_ms,
        "resume_ms": shown.resume_ms,
        "stop_ms": shown.stop_ms,
    }


def drilled(context: Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a drill has proven of its account; the job is released as any other is."""
    now, shown = context.clock.now(), args.get("shown") or {}
    with context.store.write() as session:
        job = find_job(session, str(args.get("job")))
        spec = json.loads(job.spec_json)
        if not spec["drill"]:
            raise UserError("no_drill", f"{job.name} was no drill", "socket")
        late_ms = shown.get("timer_late_ms")
        name, is_proven = str(spec["instance"]["provider"]), False
        if shown.get("timer_is_proven") and isinstance(late_ms, int):
            is_proven = True
            keep_proof(session, name, Proof(now.utc_ms, late_ms))
        text = f"the stop timer of {name} is {'proven' if is_proven else 'NOT proven'}"
        add_event(session, job.id, now.utc_ms, "drilled", text, dict(shown))
    return {"provider": name, "timer_is_proven": is_proven}
