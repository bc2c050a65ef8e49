"""What a seed draws: the platform's habits, the jobs and their trainings, what a person does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.providers.base import ProviderFacts
from costguard.sim.cloud import Prices
from costguard.sim.script import Script
from costguard.store.ledger import Caps

if TYPE_CHECKING:
    from random import Random

YUAN = 1_000_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FAULTS = ("hang", "quiet", "vanish", "crash", "oom", "nan", "diverge")
QUANTA_S = (1, 1, 60, 3_600)


@dataclass(frozen=True)
class Act:
    """What a person does to a job, at a time: pause, release, raise, lower, console, resume."""

    at_ms: int  # since the world began
    do: str
    job: str
    percent: int = 100  # of the cap as it was submitted


@dataclass(frozen=True)
class Order:
    """One job: when it is submitted, what it is, and what its training does."""

    at_ms: int
    spec: JobSpec
    script: Script


@dataclass(frozen=True)
class Scenario:
    """One seed's world before anything happens in it."""

    facts: ProviderFacts
    prices: Prices
    start_ms: int
    stop_ms: int
    call_ms: int
    orders: tuple[Order, ...]
    acts: tuple[Act, ...]
    caps: Caps = field(default_factory=Caps)
    strangers: int = 0  # machines of another installation
    length_ms: int = DAY_MS


def draw(
    rng: Random, length_ms: int, jobs: int, poll_s: int, *, calm: bool = False, brief: bool = False
) -> Scenario:
    """One scenario; a calm one has no person in it and no training that fails.

    A brief one has trainings of half an hour rather than of hours, cleared up soon: a pass of the
    real daemon costs milliseconds.
    """
    quantum_s = rng.choice(QUANTA_S)
    disk = rng.choice((0, 0, rng.randint(1, 4) * 10_000))
    prices = Prices(rng.randint(1, 40) * YUAN // 2, quantum_s, disk)
    facts = _facts(rng, poll_s)
    stop_ms = rng.randint(1_000, facts.stop_latency_ms)
    orders = tuple(
        _order(rng, number, prices, facts, length_ms, jobs, calm=calm, brief=brief)
        for number in range(jobs)
    )
    acts: list[Act] = []
    for order in orders:
        acts.extend(_acts(rng, order, length_ms, calm=calm, brief=brief))
    caps = Caps()
    if not calm and rng.random() < 0.3:
        total = sum(order.spec.cap_micros for order in orders)
        caps = Caps(month_micros=total * rng.randint(40, 100) // 100)
    start_ms, call_ms = rng.randint(1_000, 90_000), rng.choice((0, 50, 300))
    return Scenario(
        facts=replace(facts, tells_meter_end=rng.random() < 0.7),
        prices=prices,
        start_ms=start_ms,
        stop_ms=stop_ms,
        call_ms=call_ms,
        orders=orders,
        acts=tuple(sorted(acts, key=lambda act: (act.at_ms, act.job, act.do))),
        caps=caps,
        strangers=rng.randint(0, 2),
        length_ms=length_ms,
    )


def _facts(rng: Random, poll_s: int) -> ProviderFacts:
    has_timer = rng.random() < 0.7
    guest_stop = rng.random() < 0.7
    return ProviderFacts(
        name="sim",
        poll_interval_ms=poll_s * 1_000,
        cache_age_ms=rng.choice((0, 10_000, 60_000)),
        stop_latency_ms=rng.choice((10_000, 30_000, 60_000)),
        timer_min_lead_ms=rng.choice((0, 60_000, 300_000)) if has_timer else None,
        timer_lateness_ms=rng.choice((0, 30_000, 60_000)) if has_timer else 0,
        arms_timer_at_create=has_timer and rng.random() < 0.6,
        in_guest_stop=("power-off",) if guest_stop else None,
        in_guest_stop_proven=guest_stop,
    )


def _order(
    rng: Random,
    number: int,
    prices: Prices,
    facts: ProviderFacts,
    length_ms: int,
    jobs: int,
    *,
    calm: bool,
    brief: bool,
) -> Order:
    script = _script(rng, 4 if brief else 1, calm=calm)
    rest_ms = max(length_ms - script.length_ms, length_ms // 4)
    share_ms = rest_ms // jobs
    at_ms = number * share_ms + rng.randint(0, share_ms // 2)
    keep_ms = 2 * length_ms
    hold = -(-keep_ms * prices.disk // HOUR_MS)
    full = prices.running * (script.length_ms + HOUR_MS + prices.quantum_s * 1_000) // HOUR_MS
    cap = hold + full * rng.randint(30, 200) // 100
    armed = facts.timer_min_lead_ms is not None or facts.in_guest_stop_proven
    spec = JobSpec(
        name=f"job-{number + 1}",
        project=rng.choice(("a", "b")),
        cap_micros=cap,
        best_effort=not armed or rng.random() < 0.3,
        instance=InstanceWish(provider="sim", keep_for_ms=keep_ms),
        runs=(
            Run(
                argv=("train",),
                save_grace_ms=rng.choice((20_000, 60_000)),
                expects_adapter=script.adapter,
                schedule=script.schedule,
            ),
        ),
        lease_ms=rng.choice((600_000, 900_000, 1_800_000)),
        telemetry_window_ms=max(facts.poll_interval_ms, 30_000),
        pull_to="home",
    )
    return Order(at_ms, spec, script)


def _script(rng: Random, shorter: int, *, calm: bool) -> Script:
    steps = rng.randint(20, 120) // shorter
    fault = rng.choice(FAULTS) if not calm and rng.random() < 0.35 else ""
    return Script(
        download_ms=rng.choice((30_000, 10 * MINUTE_MS, 80 * MINUTE_MS)) // shorter,
        load_ms=rng.randint(10_000, 300_000),
        steps=steps,
        step_ms=rng.randint(20_000, 90_000),
        eval_every=rng.randint(15, 80) // shorter,
        eval_ms=rng.randint(60_000, 25 * MINUTE_MS) // shorter,
        save_ms=rng.randint(1_000, 40_000),
        fault=fault,
        fault_at=rng.randint(1, steps - 1) if fault else 0,
        ignores_stop=not calm and rng.random() < 0.1,
        adapter=rng.random() < 0.7,
    )


def _acts(rng: Random, order: Order, length_ms: int, *, calm: bool, brief: bool) -> list[Act]:
    name, from_ms = order.spec.name, order.at_ms
    run_ms = order.script.length_ms + 10 * MINUTE_MS
    found = []
    if not calm:
        for do, share in (("pause", 0.15), ("raise", 0.15), ("lower", 0.15), ("console", 0.1)):
            if rng.random() < share:
                late = 2 * run_ms if do == "console" else run_ms
                percent = rng.randint(5, 95) if do == "lower" else rng.randint(105, 200)
                found.append(Act(from_ms + rng.randint(0, late), do, name, percent))
    if brief or rng.random() < 0.85:  # most people clear up in the morning
        later_ms = rng.randint(0, (HOUR_MS if brief else 4 * HOUR_MS) // 2)
        found.append(Act(from_ms + run_ms + later_ms, "release", name))
    return [act for act in found if act.at_ms < length_ms]
