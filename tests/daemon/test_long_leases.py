"""Where the agent can stop the meter by itself, a sleeping laptop must not end a healthy run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.moment import MS_PER_HOUR
from costguard.store.ledger import Caps
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import GRACE_MS, LATENCY_MS, YUAN, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.core.spec import JobSpec

ASLEEP_MS = 1_800_000


def long_spec(name: str = "job", *, yuan: float = 30, **changes: Any) -> JobSpec:
    """30 yuan at 36 an hour: fifty minutes, in one lease where that may be."""
    return spec_of(name, yuan=yuan, long_leases=True, **changes)


def lease_length_ms(world: World) -> int:
    """How long the open lease is."""
    assert world.lease is not None
    return world.lease.end_utc_ms - world.lease.started_utc_ms


def test_a_lease_spans_what_the_budget_allows_once_the_agent_is_there(world: World) -> None:
    """Reserved whole, the timer behind it, the agent told that it may be alone."""
    world.set_script(steps=5_000)
    world.start_training(long_spec())
    world.run(3)
    assert lease_length_ms(world) > 2_900_000
    assert world.posted() + world.pending() <= 30 * YUAN
    assert world.pending() > 29 * YUAN
    assert world.lease is not None
    assert world.cloud.machines[0].timer_ms == world.lease.end_utc_ms + GRACE_MS
    assert world.link.sent[-1]["alone"] is True


def test_while_it_prepares_the_lease_is_a_short_one(world: World) -> None:
    """Nobody is there yet who could stop it: what may be lost to a dead daemon stays small."""
    world.set_script(steps=5_000, prepare_ms=10_000)
    world.submit(long_spec())
    world.until(lambda: bool(world.instances) and world.instances[0].power == "running")
    assert lease_length_ms(world) <= 20_000


@pytest.mark.parametrize("wanted", [True, False])
def test_what_a_long_lease_trusts_is_printed_before_it_is_taken(world: World, wanted: bool) -> None:
    """I3: the bound says what it assumes, here that the price stays while nobody is awake."""
    spec = replace(long_spec(), long_leases=wanted)
    lines = world.commands.quote({"spec": spec.to_json()})["lines"]
    assert any("a price raised" in line for line in lines) is wanted


@pytest.mark.parametrize(
    "prepare",
    [
        lambda make: make(facts=replace(FACTS, in_guest_stop_proven=False)),
        lambda make: _sharing(make()),
    ],
    ids=["stop from inside not proven", "another job under the month's cap"],
)
def test_where_it_must_not_a_lease_stays_short(
    prepare: Callable[[Callable[..., World]], World], make_world: Callable[..., World]
) -> None:
    """No enforcer to trust, or others who need the money."""
    world = prepare(make_world)
    world.set_script(steps=5_000)
    world.start_training(long_spec())
    world.run(30)
    assert lease_length_ms(world) <= 20_000
    assert world.link.sent[-1]["alone"] is False


def _sharing(world: World) -> World:
    world.caps = Caps(month_micros=100 * YUAN)
    world.set_script(steps=5_000)
    world.submit(spec_of("other"))
    return world


def test_a_run_finishes_while_the_daemon_sleeps(world: World) -> None:
    """Trained to its end, powered off by the agent, found finished: nothing of it was lost."""
    world.set_script(steps=600)
    machine = world.start_training(long_spec())
    world.run(3)
    world.kill()
    world.pass_time(ASLEEP_MS)
    assert not world.cloud.charged
    assert machine.stopped_ms is not None
    off_after_ms = machine.stopped_ms - (world.agent.exited_ms or 0)
    assert off_after_ms < 60_000
    world.boot()
    world.until_final()
    assert (world.job().state, world.job().pause_reason) == ("finished", "finished")
    world.assert_books()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"hangs_at": 10}, "stalled"),
        ({"hangs_at": 10, "quiet": True}, "idle"),
        ({"exit_code": 1, "steps": 10}, "failed"),
        ({"losses": {10: None}}, "diverged"),
    ],
)
def test_what_goes_wrong_while_the_daemon_sleeps_is_ended_by_the_agent(
    script: dict[str, Any], reason: str, world: World
) -> None:
    """And explained to the daemon that comes back: the agent's own verdict, with its evidence."""
    world.set_script(**{"steps": 5_000, **script})
    world.start_training(long_spec(guards={"idle_after_ms": 8_000, "stall_floor_ms": 30_000}))
    world.run(3)
    world.kill()
    world.pass_time(ASLEEP_MS // 3)
    assert not world.cloud.charged
    world.boot()
    world.until_final()
    job = world.job()
    assert job.pause_reason == reason
    assert '"by": "agent"' in str(job.verdict_json)
    world.assert_books()


def test_a_daemon_that_never_comes_back_costs_the_cap_and_no_more(world: World) -> None:
    """The long lease's end is the agent's and the timer's to keep."""
    world.set_script(steps=10_000)
    machine = world.start_training(long_spec(yuan=10))
    world.run(3)
    world.kill()
    world.pass_time(MS_PER_HOUR)
    assert not world.cloud.charged
    assert world.cloud.machine_micros(machine) <= 10 * YUAN
    world.boot()


def test_a_cap_lowered_under_a_long_lease_cuts_it_for_everybody(world: World) -> None:
    """Not a breach: it runs on to what the new cap allows, and timer and agent know."""
    world.set_script(steps=5_000)
    machine = world.start_training(long_spec())
    world.run(30)
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": "2"})
    world.run(3)
    lease = world.lease
    assert lease is not None
    assert not world.job().breach
    left_ms = lease.end_utc_ms - world.clock.true_ms
    assert 100_000 < left_ms < 170_000
    assert machine.timer_ms == lease.end_utc_ms + GRACE_MS
    assert abs((world.agent.leases.ends_at_ms or 0) - lease.end_utc_ms) < 1_000
    world.kill()
    world.pass_time(left_ms + LATENCY_MS)
    assert world.cloud.machine_micros(machine) <= 2 * YUAN
    world.boot()
    world.until_final()
    world.assert_books()


def test_a_cap_lowered_below_what_is_spent_stops_it_now(world: World) -> None:
    """Breach: nothing is granted, stop, alarm."""
    world.set_script(steps=5_000)
    machine = world.start_training(long_spec())
    world.run(60)
    stop_ms = world.clock.true_ms
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": "0.20"})
    world.until_final()
    assert machine.stopped_ms is not None
    assert machine.stopped_ms - stop_ms <= LATENCY_MS
    assert world.alarms("past the cap")
    world.assert_books()


def test_a_raised_cap_makes_the_lease_longer_when_it_is_due(world: World) -> None:
    """At half of it, all that is allowed now."""
    world.set_script(steps=5_000)
    world.start_training(long_spec(yuan=3))
    world.run(10)
    before = world.lease
    assert before is not None
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": "30"})
    world.run(180)
    after = world.lease
    assert after is not None
    assert after.end_utc_ms > before.end_utc_ms + 2_000_000


def test_a_lease_that_a_person_has_named_is_never_longer(world: World) -> None:
    """`[advanced] lease` in the job file is a word."""
    world.set_script(steps=5_000)
    world.start_training(spec_of(yuan=30))
    world.run(30)
    assert lease_length_ms(world) <= 20_000


@pytest.mark.parametrize("quantum_s", [7, 60, 300])
def test_rounding_never_ends_a_run_under_a_long_lease(
    quantum_s: int, make_world: Callable[..., World]
) -> None:
    """A quantum that comes out dearer than was reserved cuts the lease's end, not the run."""
    world = make_world(quantum_s=quantum_s)
    world.set_script(steps=400)
    machine = world.start_training(long_spec(yuan=8))
    world.until_final(within_s=500)
    assert world.job().pause_reason == "finished"
    assert world.cloud.machine_micros(machine) <= 8 * YUAN
    world.assert_books()


def test_a_price_rise_under_a_long_lease_cuts_it(world: World) -> None:
    """Everything is reserved already: at the new price it reaches less far, and no further."""
    world.set_script(steps=5_000)
    machine = world.start_training(long_spec(yuan=10))
    world.run(100)
    world.cloud.set_price(72 * YUAN)
    world.run(5)
    lease = world.lease
    assert lease is not None
    assert world.job().pause_reason is None
    assert lease.end_utc_ms - world.clock.true_ms < 460_000
    world.until_final(within_s=600)
    assert world.job().pause_reason == "budget"
    assert world.cloud.machine_micros(machine) <= 10 * YUAN
    world.assert_books()
