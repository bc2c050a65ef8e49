from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from costguard.providers.base import Refused, Unclear
from costguard.store.models import LeaseRow, LedgerEntry
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import DOUBLE_MS, GRACE_MS, LATENCY_MS, LEASE_MS, YUAN, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.world import World

PRICE_PER_S = 10_000  # micro-yuan, at 36 yuan an hour
NO_TIMER = replace(FACTS, timer_min_lead_ms=None, arms_timer_at_create=False)
LATE_TIMER = replace(FACTS, arms_timer_at_create=False)


def order_of(world: World) -> list[str]:
    """What was done, in order: entries of the ledger by kind, calls by route, agent leases."""
    done: list[str] = []
    world.audit.trail = done
    return done


def test_the_first_lease_is_reserved_before_the_create_call(world: World) -> None:
    """Money first; the platform's timer is armed in the very call that rents."""
    trail = order_of(world)
    world.start_training()
    assert trail.index("reserve") < trail.index("create") < trail.index("agent lease")
    lease = world.lease
    assert lease is not None
    assert world.cloud.machines[0].timer_ms == lease.end_utc_ms + GRACE_MS


def test_a_renewal_reserves_then_arms_then_grants_the_agent(world: World) -> None:
    """A timer never lies beyond a reservation, nor an agent's lease beyond the timer."""
    world.set_script(steps=500)
    world.start_training()
    trail = order_of(world)
    world.until(lambda: "reserve" in trail, within_s=LEASE_MS // 1_000)
    world.run(2)
    told = [what for what in trail if what != "charge"]
    at = told.index("reserve")
    assert told[at : at + 3] == ["reserve", "arm_timer", "agent lease"]


def test_a_lease_reserves_its_price_until_its_end_plus_l(world: World) -> None:
    """L is grace, stop call, timer lateness; and beside it lies what a duplicate may cost."""
    world.submit()
    world.tick()
    assert world.pending() == (LEASE_MS + LATENCY_MS + DOUBLE_MS) // 1_000 * PRICE_PER_S


def test_a_renewal_comes_at_half_and_reserves_only_the_increment(world: World) -> None:
    """Ten seconds of a lease of twenty are used up: ten more are reserved.

    The first renewals have the use of what was set aside for a duplicate.
    """
    world.set_script(steps=500)
    world.start_training()
    world.until(lambda: world.audit.grants == 6, within_s=50)
    reserved = world.rows(LedgerEntry, LedgerEntry.kind == "reserve")
    gaps_ms = [later.at_ms - earlier.at_ms for earlier, later in pairwise(reserved)]
    assert gaps_ms == [0] + [LEASE_MS // 2] * 4
    assert reserved[1].amount_micros == DOUBLE_MS // 1_000 * PRICE_PER_S
    assert reserved[5].amount_micros == gaps_ms[4] // 1_000 * PRICE_PER_S
    assert reserved[2].amount_micros == 0


def test_the_last_lease_is_the_final_one_and_saves_before_its_end(world: World) -> None:
    """The next does not fit the cap: save while there is money for it, and stay under the cap."""
    world.set_script(steps=500)
    machine = world.start_training(spec_of(yuan=0.4))
    world.until(lambda: world.lease is not None and world.lease.final)
    lease = world.lease
    assert lease is not None
    world.until_final()
    assert world.job().pause_reason == "budget"
    assert world.agent.exited_ms is not None
    assert world.agent.exited_ms <= lease.end_utc_ms
    assert machine.stopped_ms is not None
    assert machine.stopped_ms <= lease.end_utc_ms + LATENCY_MS
    assert world.cloud.machine_micros(machine) <= 0.4 * YUAN
    world.assert_books()


def test_a_timer_that_reads_back_another_time_is_not_armed(world: World) -> None:
    """Money assumes the later end, saving the earlier; without a timer the run ends in time."""
    world.set_script(steps=500)
    world.start_training()
    first = world.lease
    assert first is not None
    world.cloud.habits.timer_lost = True
    world.until_final()
    assert world.job().pause_reason == "platform"
    assert "timer" in (world.job().verdict_text or "")
    assert all(end <= first.end_utc_ms for _, end in world.agent.lease_ends)
    assert world.cloud.machines[0].stopped_ms is not None
    assert world.cloud.machines[0].stopped_ms <= first.end_utc_ms + LATENCY_MS
    world.assert_books()


@pytest.mark.parametrize("error", [Unclear("timer: 503"), Refused("too soon")])
def test_a_timer_that_could_not_be_armed_is_tried_again(error: Exception, world: World) -> None:
    """The failure of one call does not end a healthy run."""
    world.set_script(steps=30)
    world.start_training()
    world.cloud.fail("arm_timer", error, times=3)  # type: ignore[arg-type]
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_a_timer_armed_unclearly_does_not_lengthen_the_agents_lease(world: World) -> None:
    """Set, but never confirmed: the agent is granted only what was read back."""
    world.set_script(steps=500)
    world.start_training()
    first = world.lease
    assert first is not None
    world.cloud.fail("arm_timer", after=True)
    world.until_final()
    assert all(end <= first.end_utc_ms for _, end in world.agent.lease_ends)
    world.assert_books()


def test_without_a_platform_timer_the_daemon_and_the_agent_keep_the_lease(
    make_world: Callable[..., World],
) -> None:
    """No timer to arm: the lease counts as armed when it is reserved."""
    world = make_world(facts=NO_TIMER)
    world.set_script(steps=40)
    world.start_training()
    world.until_final()
    assert world.job().state == "finished"
    assert world.cloud.routes("arm_timer") == []
    world.assert_books()


def test_a_timer_that_cannot_be_set_at_create_is_set_at_once(
    make_world: Callable[..., World],
) -> None:
    """The time between create and the armed timer is the daemon's alone, and short."""
    world = make_world(facts=LATE_TIMER)
    world.set_script(steps=10)
    machine = world.start_training()
    assert machine.timer_ms is not None
    assert world.cloud.routes("arm_timer")[0] - world.cloud.routes("create")[0] <= 2_000
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_slow_writes_do_not_push_the_timer_beyond_the_lease(world: World) -> None:
    """However long it takes from the reservation to the create call."""
    world.write_ms = 700
    machine = world.start_training()
    reserved = world.rows(LedgerEntry, LedgerEntry.kind == "reserve")[0]
    assert world.cloud.routes("create")[0] >= reserved.at_ms + world.write_ms
    assert machine.timer_ms == reserved.to_ms + GRACE_MS


ENFORCERS: dict[str, dict[str, Any]] = {
    "the daemon alone": {"timer_ignored": True, "guest_stop_ignored": True},
    "the daemon alone, slowly": {
        "timer_ignored": True,
        "guest_stop_ignored": True,
        "stop_ms": FACTS.stop_latency_ms,
    },
    "the timer alone": {"stop_ignored": 10**6, "guest_stop_ignored": True},
    "the timer alone, late": {
        "stop_ignored": 10**6,
        "guest_stop_ignored": True,
        "timer_late_ms": FACTS.timer_lateness_ms,
        "stop_ms": FACTS.stop_latency_ms,
    },
    "the agent alone": {"stop_ignored": 10**6, "timer_ignored": True},
}


@pytest.mark.parametrize("who", ENFORCERS)
@pytest.mark.parametrize("ignores_stop", [False, True])
def test_the_meter_has_stopped_by_the_leases_end_plus_l(
    who: str, ignores_stop: bool, world: World
) -> None:
    """Whichever one enforcer is left, and whether or not the training obeys: never beyond."""
    world.set_script(steps=500, ignores_stop=ignores_stop)
    machine = world.start_training(spec_of(yuan=0.35))
    for habit, value in ENFORCERS[who].items():
        setattr(world.cloud.habits, habit, value)
    world.until(lambda: world.lease is not None and world.lease.final)
    lease = world.lease
    assert lease is not None
    world.until(lambda: not world.cloud.charged, within_s=60)
    assert machine.stopped_ms is not None
    assert machine.stopped_ms <= lease.end_utc_ms + LATENCY_MS
    world.until_final()
    assert world.cloud.machine_micros(machine) <= 0.35 * YUAN
    world.assert_books()


@pytest.mark.parametrize("who", ["the timer alone", "the agent alone"])
def test_a_dead_daemon_leaves_nothing_running_beyond_l(who: str, world: World) -> None:
    """Nobody of ours is there at the lease's end: timer or agent stop it."""
    world.set_script(steps=500)
    machine = world.start_training()
    for habit, value in ENFORCERS[who].items():
        setattr(world.cloud.habits, habit, value)
    lease = world.lease
    assert lease is not None
    world.kill()
    world.pass_time(60_000)
    assert machine.stopped_ms is not None
    assert machine.stopped_ms <= lease.end_utc_ms + LATENCY_MS
    world.boot()


@pytest.mark.parametrize("lease_ms", [20_000, 23_000, 27_000])
def test_deadlines_do_not_wait_for_a_slow_poll(
    lease_ms: int, make_world: Callable[..., World]
) -> None:
    """On a platform that is asked every 15 s the lease's end is met all the same."""
    slow = replace(NO_TIMER, poll_interval_ms=15_000, in_guest_stop=None)
    world = make_world(facts=slow)
    world.set_script(steps=500)
    machine = world.start_training(spec_of(lease_ms=lease_ms, best_effort=True))
    world.line.is_down = True
    world.until(lambda: not world.cloud.charged, within_s=90)
    reserved = world.rows(LedgerEntry, LedgerEntry.kind == "reserve")[-1]
    assert machine.stopped_ms is not None
    assert machine.stopped_ms <= reserved.to_ms + LATENCY_MS


def test_a_wall_clock_set_back_arms_nothing_beyond_the_lease(world: World) -> None:
    """The timer is set by the old time; until it is set anew only what both clocks say counts."""
    world.set_script(steps=500)
    world.start_training()
    before = world.rows(LeaseRow)[-1].seq
    world.clock.set_wall(-1_200_000)
    world.cloud.fail("arm_timer")
    world.until(lambda: world.rows(LeaseRow)[-1].seq > before)
    lease = world.rows(LeaseRow)[-1]
    assert lease.armed_end_utc_ms < lease.end_utc_ms


def test_a_first_lease_that_nothing_could_be_armed_for_is_kept_to_by_the_daemon(
    make_world: Callable[..., World],
) -> None:
    """It comes on late, the platform is asked every two minutes, and its timer is not set."""
    slow = replace(FACTS, poll_interval_ms=120_000, arms_timer_at_create=False)
    world = make_world(facts=slow)
    world.cloud.habits.start_ms = 60_000
    world.cloud.fail("arm_timer")
    world.submit(spec_of(yuan=9))
    world.until(lambda: world.lease is not None)
    assert world.lease is not None
    end_ms = world.lease.end_utc_ms
    world.until(lambda: world.cloud.routes("stop") != [], within_s=200)
    stops = [at for at, route, _ in world.cloud.calls if route == "stop"]
    assert stops[0] <= end_ms + 1_000
