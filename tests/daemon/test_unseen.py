"""What ran while nobody looked, on a platform that does not say when rent began or ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.providers.base import NoCapacity, Unclear
from costguard.store.models import Instance, PowerInterval
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import YUAN, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.fake_cloud import Machine
    from tests.daemon.world import World

SILENT = replace(FACTS, tells_meter_end=False)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A platform that tells power alone, as most do."""
    made = make_world(facts=SILENT)
    made.cloud.habits.tells_charges = False
    return made


def trained_and_paused(world: World) -> Machine:
    """A job has run for a moment, and its machine is proven off."""
    machine = world.start_training()
    world.commands.pause({"job": "job"})
    world.until_state("paused")
    return machine


def made_twins(make_world: Callable[..., World], listed_after_ms: int) -> World:
    """One create call has made two machines, and the second is not listed for so long."""
    world = make_world(facts=SILENT)
    world.cloud.habits.tells_charges = False
    world.cloud.habits.makes_twins = True
    world.submit()
    world.until(lambda: world.cloud.machines != [])
    world.cloud.machines[1].visible_ms = world.clock.true_ms + listed_after_ms
    world.until_final(within_s=400)
    return world


def booked_and_billed(world: World, number: int = 0) -> tuple[int, int]:
    """What the books and the platform say one machine has cost."""
    machine = world.cloud.machines[number]
    row = next(row for row in world.rows(Instance) if row.provider_id == machine.id)
    entries = [e for e in world.ledger() if e.kind in ("charge", "adjust")]
    booked = sum(e.amount_micros for e in entries if e.job_id == row.job_id)
    return booked, world.cloud.machine_micros(machine)


def test_a_run_that_no_look_saw_is_charged_from_its_call(world: World) -> None:
    """Every read fails until it was paused again."""
    world.cloud.fail("read")
    world.submit()
    world.until(lambda: world.cloud.charged != [])
    world.run(20)
    world.commands.pause({"job": "job"})
    world.until(lambda: world.cloud.charged == [])
    world.cloud.heal()
    world.until_final()
    booked, billed = booked_and_billed(world)
    assert booked >= billed > 0


def test_what_ran_while_the_daemon_slept_is_charged(world: World) -> None:
    """It dies right after its call, and comes back when the timer has long ended the rent."""
    world.submit()
    world.until(lambda: world.cloud.machines != [])
    world.restart(after_ms=300_000)
    world.until_final()
    booked, billed = booked_and_billed(world)
    assert booked >= billed > 0


def test_a_start_that_was_refused_costs_nothing(world: World) -> None:
    """However long nobody looked after it: nothing was started."""
    trained_and_paused(world)
    before = world.posted()
    world.cloud.fail("start", NoCapacity("none free"))
    world.commands.resume({"job": "job"})
    world.cloud.fail("read", times=20)
    world.run(40)
    assert world.posted() == before


def test_a_start_that_is_not_on_yet_costs_nothing_yet(world: World) -> None:
    """The looks are as close as ever: off is "not on yet"."""
    trained_and_paused(world)
    before = world.posted()
    world.cloud.fail("start", Unclear("lost"))
    world.commands.resume({"job": "job"})
    world.run(5)
    assert world.posted() == before


def test_a_price_that_fell_before_the_first_look_is_charged_as_it_was(world: World) -> None:
    """From the read that tells of it on the lower one holds."""
    world.cloud.fail("read", times=10)
    world.submit(spec_of(yuan=50))
    world.until(lambda: world.cloud.machines and world.cloud.machines[0].is_charged)
    world.run(5)
    world.cloud.set_price(9 * YUAN)
    world.run(20)
    booked, billed = booked_and_billed(world)
    assert booked >= billed > 0


def test_a_stray_that_is_found_off_is_charged_from_the_call_that_made_it(
    make_world: Callable[..., World],
) -> None:
    """The platform made two of one call and showed the second only when its timer had ended it."""
    world = made_twins(make_world, 300_000)
    world.pass_time(300_000)
    world.chores.watch_strays()
    world.run(10)
    booked, billed = booked_and_billed(world, 1)
    assert booked >= billed > 0


def test_what_was_seen_on_while_the_disk_was_full_is_charged(world: World) -> None:
    """Somebody switched it on and off again in the console, and none of it could be written."""
    machine = trained_and_paused(world)
    world.store.is_broken = True
    world.cloud.switch_on(machine)
    world.until(lambda: machine.power == "stopped", within_s=200)
    world.store.is_broken = False
    world.run(90)
    booked, billed = booked_and_billed(world)
    assert booked >= billed


def test_what_is_given_back_while_it_is_on_is_charged_up_to_then(
    make_world: Callable[..., World],
) -> None:
    """The stop does nothing, and a person releases it: its interval ends with the call."""
    world = make_world()
    machine = trained_and_paused(world)
    world.cloud.habits.stop_ignored = 10**6
    world.cloud.switch_on(machine)
    world.until(lambda: machine.is_charged)
    world.run(90)
    world.commands.release({"job": "job", "confirm": "job"})
    world.until_state("released")
    assert [row for row in world.rows(PowerInterval) if row.ended_ms is None] == []
    world.assert_books()


def test_times_told_by_a_clock_that_is_not_ours_are_charged_whole(
    make_world: Callable[..., World],
) -> None:
    """Our clock is two minutes behind, and nobody looked for five: rent and disk lose nothing."""
    world = make_world(disk_price=36 * YUAN)
    world.cloud.habits.tells_clock = world.cloud.habits.timer_ignored = True
    world.clock.set_wall(-120_000)
    world.submit(spec_of(yuan=9_000))
    world.until(lambda: world.cloud.machines != [])
    world.restart(after_ms=300_000)
    world.run(2)
    booked, billed = booked_and_billed(world)
    assert booked >= billed - 50_000
    kinds = {row.kind: row.posted_micros for row in world.rows(PowerInterval)}
    assert min(kinds["running"], kinds["disk"]) > 280 * YUAN // 100


def test_a_boot_anew_with_a_clock_that_had_been_set_loses_nothing(
    make_world: Callable[..., World],
) -> None:
    """Neither clock of ours knows how long we were away: the platform tells how long it ran."""
    world = make_world()
    habits = world.cloud.habits
    habits.tells_clock = habits.timer_ignored = habits.guest_stop_ignored = True
    world.clock.set_wall(3_600_000)
    world.start_training(spec_of(yuan=50))
    world.kill()
    world.pass_time(300_000)
    world.clock.set_wall(-3_600_000)
    world.clock.reboot()
    world.boot()
    world.run(3)
    booked, billed = booked_and_billed(world)
    assert booked >= billed - 20_000 > 3 * YUAN


@pytest.mark.parametrize("reads_lost", [0, 3])
def test_the_date_of_an_answer_tells_how_long_a_boot_anew_has_taken(
    make_world: Callable[..., World], reads_lost: int
) -> None:
    """A platform that tells no times: rent and disk, also where the first looks get no answer."""
    world = make_world(facts=SILENT, disk_price=36 * YUAN)
    habits = world.cloud.habits
    habits.tells_charges, habits.dates_answers = False, True
    habits.timer_ignored = habits.guest_stop_ignored = True
    world.clock.set_wall(3_600_000)
    world.start_training(spec_of(yuan=900))
    world.kill()
    world.pass_time(300_000)
    world.clock.set_wall(-3_600_000)
    world.clock.reboot()
    world.cloud.fail("read", times=reads_lost)
    world.boot()
    world.run(3 + reads_lost)
    booked, billed = booked_and_billed(world)
    assert billed <= booked < billed + 50_000
    kinds = {row.kind: row.posted_micros for row in world.rows(PowerInterval)}
    assert min(kinds["running"], kinds["disk"]) > 3 * YUAN


def test_a_wall_clock_set_back_before_the_first_look_loses_nothing(world: World) -> None:
    """Ten minutes back while no read gets through: the boot clock knows when it was called."""
    world.cloud.fail("read")
    world.cloud.habits.timer_ignored = True  # else one that is set by the new time fires at once
    world.submit(spec_of(yuan=50))
    world.until(lambda: world.cloud.charged != [])
    world.clock.set_wall(-600_000)
    world.run(60)
    world.cloud.heal()
    world.run(2)
    booked, billed = booked_and_billed(world)
    assert booked >= billed - 20_000 > 0


def test_an_end_that_a_fast_clock_told_hides_no_later_run(world: World) -> None:
    """The wall was an hour ahead in the first run, and was mended while it was paused."""
    world.clock.set_wall(3_600_000)
    trained_and_paused(world)
    world.clock.set_wall(-3_600_000)
    world.run(70)
    world.cloud.fail("read")
    world.commands.resume({"job": "job"})
    world.run(20)
    world.commands.pause({"job": "job"})
    world.run(10)
    world.cloud.heal()
    world.run(60)
    booked, billed = booked_and_billed(world)
    assert booked >= billed


def test_a_strays_price_is_the_one_that_was_known_when_it_was_made(
    make_world: Callable[..., World],
) -> None:
    """It fell before the list showed it: what ran until then was dearer."""
    world = make_world(facts=SILENT)
    world.cloud.habits.tells_charges = False
    world.cloud.habits.makes_twins = world.cloud.habits.timer_ignored = True
    world.submit(spec_of(yuan=50))
    world.until(lambda: world.cloud.machines != [])
    world.cloud.machines[1].visible_ms = world.clock.true_ms + 30_000
    world.run(20)
    world.cloud.set_price(9 * YUAN)
    world.run(20)
    world.chores.watch_strays()
    world.run(2)
    booked, billed = booked_and_billed(world, 1)
    assert booked >= billed > 0
