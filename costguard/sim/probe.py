"""How much of a cap is usable: the cap is not bought with timidity.

A training that would go on for longer than its budget, on a platform without faults; what counts
is the time that it really trained, at the platform's price, as a share of the cap.
"""

from __future__ import annotations

from random import Random

from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.providers.base import ProviderFacts
from costguard.sim.cloud import Prices
from costguard.sim.faults import Faults
from costguard.sim.lean import LeanHost
from costguard.sim.scenario import HOUR_MS, YUAN, Order, Scenario
from costguard.sim.script import Script
from costguard.sim.world import World

CAP_YUAN = 80
YUAN_PER_HOUR = 15
POLLS_S = (5, 15, 30, 60)
STARTS_MS = (5_000, 30_000, 60_000)


def cap_used_percents(quantum_s: int) -> list[float]:
    """Percent of ¥80 at ¥15 an hour that went into training, with L of 120 s, for twelve worlds."""
    return [_percent(quantum_s, poll_s, start) for poll_s in POLLS_S for start in STARTS_MS]


def _percent(quantum_s: int, poll_s: int, start_ms: int) -> float:
    rng = Random(f"cap {quantum_s} {poll_s} {start_ms}")
    faults = Faults(rng, calm=True)
    scenario = _scenario(quantum_s, poll_s, start_ms)
    world = World(0, rng, scenario, faults)
    world.host = LeanHost(world)
    world.play()
    if world.judge.violations:
        raise RuntimeError(f"a calm night: {world.judge.violations}")
    trained_ms = sum(
        guest.exited_ms - guest.launched_ms
        for guest in world.line.guests
        if guest.launched_ms is not None and guest.exited_ms is not None
    )
    return round(100 * trained_ms * YUAN_PER_HOUR / (CAP_YUAN * HOUR_MS), 2)


def _scenario(quantum_s: int, poll_s: int, start_ms: int) -> Scenario:
    facts = ProviderFacts(
        name="sim",
        poll_interval_ms=poll_s * 1_000,
        cache_age_ms=0,
        stop_latency_ms=30_000,
        timer_min_lead_ms=0,
        timer_lateness_ms=30_000,
        arms_timer_at_create=True,
        in_guest_stop=("power-off",),
        in_guest_stop_proven=True,
        tells_meter_end=True,
    )
    spec = JobSpec(
        name="job-1",
        project="a",
        cap_micros=CAP_YUAN * YUAN,
        best_effort=False,
        instance=InstanceWish(provider="sim"),
        runs=(Run(argv=("train",), save_grace_ms=60_000),),
        telemetry_window_ms=60_000,
    )
    script = Script(steps=1_000, step_ms=30_000, eval_every=2_000, adapter=False)
    return Scenario(
        facts=facts,
        prices=Prices(YUAN_PER_HOUR * YUAN, quantum_s, 0),
        start_ms=start_ms,
        stop_ms=10_000,
        call_ms=50,
        orders=(Order(0, spec, script),),
        acts=(),
        length_ms=7 * HOUR_MS,
    )
