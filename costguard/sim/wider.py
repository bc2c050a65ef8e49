"""What seeds draw since the second edition of the worlds, with dice of its own.

The draws of the first edition stay what they were: troubles, jobs and trainings of a seed are the
same, and what is here comes on top.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.sim.scenario import Act, Scenario

if TYPE_CHECKING:
    from random import Random

    from costguard.sim.cloud import Prices
    from costguard.sim.scenario import Order


def widen(scenario: Scenario, rng: Random, *, calm: bool, brief: bool) -> Scenario:
    """The scenario with a whole tariff, caps of projects, and a person who resumes and visits.

    Visits come in brief ones only: the host of the others has no door for a visitor.
    """
    prices = _tariff(scenario.prices, rng)
    projects = _project_caps(scenario.orders, rng, calm=calm)
    acts = list(scenario.acts)
    for order in scenario.orders:
        acts += _resumes(order, scenario.length_ms, rng, calm=calm)
        acts += _visits(order, scenario.length_ms, rng) if brief else []
    return replace(
        scenario,
        prices=prices,
        caps=replace(scenario.caps, project_micros=projects),
        acts=tuple(sorted(acts, key=lambda act: (act.at_ms, act.job, act.do))),
    )


def _tariff(prices: Prices, rng: Random) -> Prices:
    """Quanta on the clock, cheaper nights, a minimum for each start: each in some worlds."""
    return replace(
        prices,
        by_clock=rng.random() < 0.15 and prices.quantum_s > 1,
        night_per_mille=rng.choice((500, 700, 800)) if rng.random() < 0.25 else 1_000,
        minimum_s=rng.choice((300, 600, 1_800)) if rng.random() < 0.15 else 0,
    )


def _project_caps(orders: tuple[Order, ...], rng: Random, *, calm: bool) -> dict[str, int] | None:
    """A cap for one project or both; None: none."""
    drawn = {name: (rng.random(), rng.randint(40, 100)) for name in ("a", "b")}
    caps = {}
    for name, (chance, percent) in drawn.items():
        total = sum(o.spec.cap_micros for o in orders if o.spec.project == name)
        if not calm and chance < 0.2 and total:
            caps[name] = total * percent // 100
    return caps or None


def _resumes(order: Order, length_ms: int, rng: Random, *, calm: bool) -> list[Act]:
    """A person has a paused job go on, once or twice, now and then with a raised cap before."""
    run_ms = order.script.length_ms
    found = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        at_ms = order.at_ms + rng.randint(run_ms // 4, 2 * run_ms)
        if rng.random() < 0.4:
            found.append(Act(at_ms - 1, "raise", order.spec.name, rng.randint(105, 250)))
        found.append(Act(at_ms, "resume", order.spec.name))
    return [act for act in found if act.at_ms < length_ms and not calm]


def _visits(order: Order, length_ms: int, rng: Random) -> list[Act]:
    """A person looks around on an ended job's machine, for so many minutes at most."""
    run_ms = order.script.length_ms
    found = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        at_ms = order.at_ms + rng.randint(run_ms // 2, 2 * run_ms + 1_800_000)
        found.append(Act(at_ms, "visit", order.spec.name, rng.randint(2, 40)))
    return [act for act in found if act.at_ms < length_ms]
