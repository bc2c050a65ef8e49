from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.daemon.act import Actor
from costguard.store.models import LeaseRow
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import FINAL, LATENCY_MS, LEASE_MS, Killed, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.world import World

HOUR_MS = 3_600_000
FULL = bool(os.environ.get("COSTGUARD_TEST_FULL"))
POINTS_APART = 1 if FULL else 13  # a run has more than a hundred; each is a run of its own
SECONDS = range(1, 18) if FULL else (2, 4, 7, 10, 12, 15)


def play(world: World) -> None:
    """A short run with an adapter, to its end."""
    world.set_script(steps=12, adapter=True, checkpoint_at=3)
    try:
        world.submit(spec_of(expects_adapter=True))
    except Killed:
        world.kill_at = None
        world.restart()
        world.submit(spec_of(expects_adapter=True))  # the client asks again, with the same key
    world.until_final()


def assert_as_if_nothing_had_happened(world: World, where: object) -> None:
    """Finished, one instance from one create call, everything home, books and bill alike."""
    assert world.job().state == "finished", where
    assert len(world.cloud.machines) == 1, where
    assert world.line.pulled[-1] == "adapter", where
    assert len(world.events("pulled")) == 2, where
    exits = [record["seq"] for record in world.agent.journal if record["t"] == "exit"]
    assert world.job().last_seq >= exits[0], where
    assert not world.events("overrun"), where
    world.assert_books()


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_restart_at_any_second_changes_nothing(seconds: int, world: World) -> None:
    """Memory is dropped and rebuilt from the database alone."""
    world.set_script(steps=6, adapter=True, checkpoint_at=3)
    world.submit(spec_of(expects_adapter=True))
    world.run(seconds)
    world.restart()
    world.until_final()
    assert_as_if_nothing_had_happened(world, seconds)


def test_a_daemon_that_never_lives_long_still_brings_it_home(world: World) -> None:
    """Killed again and again, as soon as it has reached the agent."""
    world.set_script(steps=6, adapter=True, checkpoint_at=3, prepare_ms=0)
    world.submit(spec_of(expects_adapter=True))
    for _ in range(40):
        if world.job().state in FINAL:
            break
        world.run(4)
        world.restart()
    assert_as_if_nothing_had_happened(world, "every fourth second")


@pytest.mark.parametrize("is_troubled", [False, True])
def test_a_death_between_any_two_effects_changes_nothing(
    is_troubled: bool, make_world: Callable[..., World]
) -> None:
    """SIGKILL before and after each commit and each call: one instance, the same books.

    Also where the create call is unclear, the timer is not armed at once, and stops fail.
    """

    def ready() -> World:
        made = make_world()
        if is_troubled:
            made.cloud.fail("create", times=1, after=True)
            made.cloud.fail("list", times=1)
            made.cloud.fail("arm_timer", times=1)
            made.cloud.fail("stop", times=1)
            made.cloud.fail("stop", times=1, after=True)
        return made

    whole = ready()
    play(whole)
    for point in range(1, whole.points + 1, POINTS_APART):
        world = ready()
        world.kill_at = point
        play(world)
        assert world.restarts == 1, f"the daemon was not killed at point {point}"
        assert_as_if_nothing_had_happened(world, f"point {point} of {whole.points}")
        world.kill()


@pytest.mark.parametrize("is_new_boot", [False, True])
def test_a_daemon_that_comes_back_after_the_lease_stops_first(
    is_new_boot: bool, world: World
) -> None:
    """Timer and agent failed as well: the stop call is the first thing it does."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    world.kill()
    world.pass_time(LEASE_MS + 60_000)
    if is_new_boot:
        world.clock.reboot()
    calls = len(world.cloud.calls)
    world.boot()
    world.tick()
    made = [route for _, route, _ in world.cloud.calls[calls:]]
    assert made[:2] == ["read", "stop"]
    world.until_final()
    assert world.job().pause_reason in ("blind", "budget")
    assert world.events("overrun")
    assert machine.stopped_ms is not None
    world.assert_books()


def test_a_machine_that_went_off_with_its_lease_is_granted_nothing(world: World) -> None:
    """Nobody was there; the agent ended it. It is blind, and no new lease is taken for it."""
    world.set_script(steps=500)
    world.start_training()
    grants = world.audit.grants
    world.restart(after_ms=LEASE_MS + 10_000)
    world.until_final()
    assert world.job().pause_reason == "blind"
    assert world.audit.grants == grants
    world.assert_books()


def test_a_renewal_that_never_reached_the_agent_is_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after it was booked and before it was told: the agent ends with what it knew of."""
    world.set_script(steps=500)
    machine = world.start_training()
    lease = world.lease
    assert lease is not None
    monkeypatch.setattr(Actor, "send_lease", lambda *_: None)
    world.until(lambda: world.lease is not None and world.lease.seq > lease.seq, 20)
    world.kill()
    monkeypatch.undo()
    while machine.is_charged:
        world.pass_time(1_000)
    world.boot()
    renewed = world.rows(LeaseRow)[-1]
    assert world.clock.now().utc_ms < renewed.end_utc_ms, "by the books it was paid for still"
    world.until_final()
    job = world.job()
    assert (job.state, job.pause_reason) == ("paused", "blind")
    assert "after its lease ran out unrenewed" in str(job.verdict_text)
    world.assert_books()


def test_a_new_boot_within_the_lease_goes_on_under_a_new_one(world: World) -> None:
    """No lease is assumed after a reboot: it is reserved anew, and the run is not harmed."""
    world.set_script(steps=30)
    world.start_training()
    grants = world.audit.grants
    world.kill()
    world.clock.reboot(after_ms=5_000)
    world.boot()
    world.tick()
    assert world.audit.grants == grants + 1
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_a_new_boot_while_stopping_still_needs_the_whole_proof(world: World) -> None:
    """Reads of another boot are compared by the wall clock, and the job ends."""
    world.set_script(steps=500)
    world.start_training()
    world.commands.pause({"job": "job"})
    world.until_state("pausing")
    world.kill()
    world.clock.reboot(after_ms=5_000)
    world.boot()
    world.until_final()
    assert world.job().state == "paused"
    world.assert_books()


def test_a_restart_with_a_dead_line_is_blind_and_bounded(world: World) -> None:
    """Nothing was heard since the start: leases are not renewed for what may be long dead."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.line.is_down = True
    world.restart(after_ms=3_000)
    started_ms = world.clock.true_ms
    world.until_final(within_s=90)
    assert world.job().pause_reason == "blind"
    assert machine.stopped_ms is not None
    assert machine.stopped_ms <= started_ms + 2 * LEASE_MS + LATENCY_MS
    world.assert_books()


def test_a_machine_that_boots_anew_and_is_not_heard_is_blind(world: World) -> None:
    """A new port is a new line, not a reason to wait for ever."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.cloud.habits.stop_ms = world.cloud.habits.start_ms = 0
    world.cloud.switch_on(machine)  # boots once more, on another port, its agent gone
    world.agent.power_off()
    world.line.is_down = True
    world.until_final(within_s=120)
    assert world.job().pause_reason == "blind"
    world.assert_books()


@pytest.mark.parametrize("by_ms", [-HOUR_MS, HOUR_MS])
@pytest.mark.parametrize("state", ["provisioning", "training", "pausing"])
def test_a_wall_clock_that_jumps_an_hour_costs_no_more_than_the_cap(
    by_ms: int, state: str, world: World
) -> None:
    """Whatever the run comes to: off in time, never booked below the bill, cap kept."""
    world.set_script(steps=30)
    world.submit(spec_of(yuan=40))
    if state == "pausing":
        world.until_state("training")
        world.commands.pause({"job": "job"})
    world.until_state(state)
    world.clock.set_wall(by_ms)
    world.until_final()
    world.run(61)
    assert not world.cloud.charged
    assert world.posted() >= world.cloud.machine_micros(world.cloud.machines[0])
    assert world.pending() == 0


def test_a_wall_clock_set_back_does_not_lower_what_is_reserved(
    make_world: Callable[..., World],
) -> None:
    """Elapsed time is what the boot clock says: the next lease covers all that has run."""
    world = make_world(facts=replace(FACTS, timer_min_lead_ms=None, arms_timer_at_create=False))
    world.set_script(steps=500)
    world.start_training()
    world.run(4)
    world.clock.set_wall(-HOUR_MS)
    world.run(25)
    lease = world.lease
    assert lease is not None
    left_ms = lease.end_boot_ms - world.clock.now().boot_ms
    assert left_ms > 0
    assert world.pending() >= (left_ms + LATENCY_MS) // 1_000 * 10_000


def test_a_wall_clock_set_forward_ends_the_run_and_is_told(world: World) -> None:
    """The stricter clock decides; the bill says in the end what was really used."""
    world.set_script(steps=500)
    world.start_training()
    world.clock.set_wall(HOUR_MS)
    world.until_final()
    assert world.job().pause_reason in ("blind", "budget", "platform")
    assert not world.cloud.charged
