from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.core.meter import CLOCKS_AGREE_MS
from costguard.daemon.asking import ahead_ms, arm_timer, read_instance
from tests.daemon.world import GRACE_MS, LEASE_MS, World, spec_of

if TYPE_CHECKING:
    from tests.daemon.fake_cloud import Machine

HOUR_MS = 3_600_000
PRICE_PER_S = 10_000


def rented(world: World, wrong_ms: int) -> tuple[Machine, int]:
    """A machine that our create call has made, and when by the true clock its lease ends."""
    world.clock.set_wall(wrong_ms)
    world.submit(spec_of(yuan=40))
    world.until(lambda: world.cloud.machines != [])
    assert world.lease is not None
    return world.cloud.machines[0], world.lease.end_utc_ms - wrong_ms


@pytest.mark.parametrize("wrong_ms", [-HOUR_MS, 0, HOUR_MS])
def test_the_timer_of_a_create_call_fires_with_its_lease(wrong_ms: int, world: World) -> None:
    """Whatever our wall clock says; and it counts as armed."""
    world.cloud.habits.dates_answers = True
    machine, end_ms = rented(world, wrong_ms)
    assert machine.timer_ms == end_ms + GRACE_MS
    assert world.lease is not None
    assert world.lease.armed_end_utc_ms == world.lease.end_utc_ms


@pytest.mark.parametrize("wrong_ms", [-HOUR_MS, 0, HOUR_MS])
def test_a_timer_is_moved_and_read_back_in_our_time(wrong_ms: int, world: World) -> None:
    """The platform is told its own."""
    world.cloud.habits.dates_answers = True
    machine, _ = rented(world, wrong_ms)
    now = world.clock.now()
    assert arm_timer(world.cloud, machine.id, now.utc_ms + 9_000, now) == now.utc_ms + 9_000
    assert machine.timer_ms == world.clock.true_ms + 9_000
    told = read_instance(world.cloud, machine.id, now).read.timer_at_ms
    assert told == now.utc_ms + 9_000


def test_clocks_that_agree_within_an_answers_way_are_taken_as_one(world: World) -> None:
    """A date is in whole seconds."""
    world.cloud.habits.dates_answers = True
    world.clock.set_wall(CLOCKS_AGREE_MS - 1)
    assert ahead_ms(world.cloud, world.clock.now()) == 0
    world.clock.set_wall(1)
    assert ahead_ms(world.cloud, world.clock.now()) == -CLOCKS_AGREE_MS


def test_where_no_answer_has_a_date_our_clock_is_all_there_is(world: World) -> None:
    """A timer is set by it, and fires an hour late: `doctor` compares the clocks."""
    machine, end_ms = rented(world, HOUR_MS)
    assert machine.timer_ms == end_ms + HOUR_MS + GRACE_MS


def test_a_platform_that_shows_no_timer_shows_none_in_our_time(world: World) -> None:
    """Nothing is reckoned from nothing."""
    world.cloud.habits.dates_answers = True
    machine, _ = rented(world, HOUR_MS)
    machine.timer_ms = None
    view = read_instance(world.cloud, machine.id, world.clock.now())
    assert view.read.timer_at_ms is None


@pytest.mark.parametrize("wrong_ms", [-HOUR_MS, HOUR_MS])
def test_a_wall_clock_that_is_wrong_from_the_start_changes_nothing(
    wrong_ms: int, world: World
) -> None:
    """It trains; the daemon dies and nobody is heard; the timer ends it with its lease."""
    world.cloud.habits.dates_answers = True
    world.clock.set_wall(wrong_ms)
    world.set_script(steps=500)
    machine = world.start_training(spec_of(yuan=40))
    world.run(25)
    assert world.job().state == "training"
    world.kill()
    world.line.is_down = True
    died_ms = world.clock.true_ms
    world.pass_time(HOUR_MS)
    assert machine.stopped_ms is not None
    assert machine.stopped_ms <= died_ms + LEASE_MS + GRACE_MS + 5_000
    world.line.is_down = False
    world.restart()
    world.until_final(within_s=300)
    bill = world.cloud.machine_micros(machine)
    assert bill <= world.posted() <= bill + CLOCKS_AGREE_MS // 1_000 * PRICE_PER_S
