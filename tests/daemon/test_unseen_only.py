"""What nobody saw is charged as far as it can have run, and no further."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from costguard.providers.base import Busy, Unclear
from costguard.store.models import PowerInterval
from tests.daemon.test_unseen import SILENT, booked_and_billed, made_twins, trained_and_paused
from tests.daemon.world import YUAN, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.fake_cloud import Machine
    from tests.daemon.world import World


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A platform that tells power alone, as most do."""
    made = make_world(facts=SILENT)
    made.cloud.habits.tells_charges = False
    return made


HOUR_S = 3_600
HOUR_MICROS = 36 * YUAN


def test_what_was_seen_off_again_before_the_books_could_be_written_ended_then(world: World) -> None:
    """On for a minute in the console, and the disk stays full for an hour afterwards."""
    machine = trained_and_paused(world)
    world.store.is_broken = True
    world.cloud.switch_on(machine)
    world.run(60)
    world.cloud.switch_off(machine)
    world.run(3_600)
    world.store.is_broken = False
    world.run(90)
    booked, billed = booked_and_billed(world)
    assert billed <= booked < billed + 2 * YUAN


def test_answers_of_unknown_while_the_books_could_not_be_written_are_no_run(world: World) -> None:
    """Every other look shows it off, for an hour: nothing was there to be charged."""
    machine = trained_and_paused(world)
    before = world.posted()
    world.store.is_broken = True
    for _ in range(20):
        world.run(90)
        machine.power = "unknown"
        world.run(90)
        machine.power = "stopped"
    world.run(90)
    world.store.is_broken = False
    world.run(90)
    assert world.posted() == before


def test_a_price_that_fell_in_a_night_that_nobody_saw_makes_no_rent_of_it(
    make_world: Callable[..., World],
) -> None:
    """Its lease ran out in the first minutes; the read that tells of the fall tells of that too."""
    world = make_world()
    world.start_training(spec_of(yuan=900))
    world.kill()
    world.pass_time(3_600_000)
    world.cloud.set_price(9 * YUAN)
    world.pass_time(7 * HOUR_S * 1_000)
    world.restart()
    world.run(3)
    booked, billed = booked_and_billed(world)
    assert billed <= booked < billed + YUAN


def test_what_was_switched_on_before_our_start_call_is_charged_from_there(
    make_world: Callable[..., World],
) -> None:
    """The console at night, a daemon that was down, and `resume` in the morning."""
    world = make_world()
    machine = trained_and_paused(world)
    world.run(120)
    world.cloud.habits.dates_answers = True
    world.kill()
    world.pass_time(600_000)
    world.cloud.switch_on(machine)
    world.pass_time(300_000)
    world.cloud.fail("read", times=3)
    world.restart()
    world.commands.resume({"job": "job"})
    before = world.posted()
    world.until(lambda: world.posted() > before, what="the first look that shows it on")
    booked, billed = booked_and_billed(world)
    assert billed <= booked < billed + YUAN


def test_an_answer_of_unknown_about_what_never_came_on_is_no_rent(
    make_world: Callable[..., World],
) -> None:
    """A twin that was called off while it was starting, and hours later nobody knows."""
    world = make_world(facts=SILENT)
    world.cloud.habits.tells_charges, world.cloud.habits.makes_twins = False, True
    world.submit()
    world.until(lambda: len(world.cloud.machines) == 2)
    twin = world.cloud.machines[1]
    twin.power, twin.due_ms = "stopped", None
    world.chores.watch_strays()
    world.until_final(within_s=400)
    world.run(600)
    before = booked_and_billed(world, 1)
    twin.power = "unknown"
    world.run(300)
    twin.power = "stopped"
    world.run(300)
    assert booked_and_billed(world, 1) == before
    assert world.cloud.machine_micros(twin) == 0


@pytest.fixture
def hourly(make_world: Callable[..., World]) -> World:
    """A platform as Compshare is: it tells power alone, out of a cache, and bills by the hour."""
    facts = replace(SILENT, poll_interval_ms=15_000, cache_age_ms=15_000)
    made = make_world(facts=facts, quantum_s=HOUR_S)
    made.cloud.habits.tells_charges = False
    return made


def paused(world: World) -> Machine:
    """A job that has trained for a moment and was paused: one hour is booked."""
    world.start_training(spec_of(yuan=300, lease_ms=900_000, guards={"prepare_within_ms": 300_000}))
    world.commands.pause({"job": "job"})
    world.until_state("paused", within_s=200)
    assert world.posted() == HOUR_MICROS
    return world.cloud.machines[0]


def never_comes_on(world: World) -> None:
    """Start calls are accepted from now on, and nothing follows."""
    world.cloud.start = lambda instance_id: None  # type: ignore[method-assign]  # a full host


def test_a_start_that_is_accepted_and_never_comes_on_costs_nothing(hourly: World) -> None:
    """Every look shows it off: the stop call at the end does not make an hour of it."""
    paused(hourly)
    never_comes_on(hourly)
    for _ in range(2):
        hourly.commands.resume({"job": "job"})
        hourly.run(30)
        hourly.until_state("paused", within_s=1_500)
    assert hourly.posted() == HOUR_MICROS


def test_some_reads_that_fail_in_a_slow_start_cost_nothing(hourly: World) -> None:
    """A minute without an answer is no hour, whatever the ticks are."""
    machine = paused(hourly)
    never_comes_on(hourly)
    hourly.commands.resume({"job": "job"})
    for _ in range(20):
        hourly.tick(1_010)
    hourly.cloud.fail("read", times=4)
    for _ in range(90):
        hourly.tick(1_010)
    assert hourly.posted() == HOUR_MICROS
    hourly.cloud.switch_on(machine)
    hourly.until_final()
    assert hourly.posted() == 2 * HOUR_MICROS


def test_a_stray_found_off_days_later_is_charged_to_the_end_of_its_lease(
    make_world: Callable[..., World],
) -> None:
    """Had its timer not ended it, it would be on still."""
    world = made_twins(make_world, 172_800_000)
    world.clock.advance(172_800_000)
    world.cloud.settle()
    world.chores.watch_strays()
    world.run(10)
    booked, billed = booked_and_billed(world, 1)
    assert billed <= booked < 2 * billed
    assert world.events("assumed_run")


def test_a_night_that_nobody_saw_ends_with_its_timer(hourly: World) -> None:
    """The lid is closed on a training; the timer that was read back ends it within its hour."""
    hourly.start_training(
        spec_of(yuan=600, lease_ms=900_000, guards={"prepare_within_ms": 300_000})
    )
    hourly.restart(after_ms=8 * HOUR_S * 1_000)
    hourly.run(120)
    assert hourly.cloud.machine_micros(hourly.cloud.machines[0]) == HOUR_MICROS
    assert hourly.posted() == HOUR_MICROS
    assert hourly.events("assumed_run")


def test_without_a_timer_a_night_that_nobody_saw_is_charged_whole(
    make_world: Callable[..., World],
) -> None:
    """Whoever ended it may have come in the last minute: until the bill says so."""
    facts = replace(SILENT, timer_min_lead_ms=None, arms_timer_at_create=False)
    world = make_world(facts=facts)
    world.cloud.habits.tells_charges = False
    machine = world.start_training(spec_of(yuan=600))
    world.kill()
    world.cloud.switch_off(machine)
    world.restart(after_ms=8 * HOUR_S * 1_000)
    world.run(5)
    assert world.posted() >= 8 * HOUR_MICROS
    assert world.events("assumed_run")


def test_a_timer_that_was_never_read_back_ends_no_night_in_the_books(world: World) -> None:
    """It was asked for with each lease and not kept: nothing says when the rent ended."""
    world.cloud.habits.timer_lost = world.cloud.habits.timer_lost_at_create = True
    world.submit(spec_of(yuan=600))
    world.until(lambda: world.rows(PowerInterval) != [])
    world.kill()
    world.cloud.switch_off(world.cloud.machines[0])
    world.restart(after_ms=8 * HOUR_S * 1_000)
    world.run(5)
    assert world.posted() >= 8 * HOUR_MICROS


def test_a_machine_that_was_switched_on_anew_was_off_in_between(
    make_world: Callable[..., World],
) -> None:
    """Its timer ended it, a person switched it on in the console, and the first read failed."""
    world = make_world(quantum_s=HOUR_S)
    world.cloud.habits.tells_clock = True
    machine = world.start_training(spec_of(yuan=900))
    world.kill()
    world.pass_time(12 * HOUR_S * 1_000)
    world.cloud.switch_on(machine)
    world.cloud.fail("read", times=1)
    world.restart(after_ms=5_000)
    world.until_final(within_s=300)
    booked, billed = booked_and_billed(world)
    assert (booked, billed) == (2 * HOUR_MICROS, 2 * HOUR_MICROS)


def test_what_outlives_its_timer_is_charged_once_it_is_seen(world: World) -> None:
    """No answer for an hour: charged up to the timer, then, as it is on still, up to now."""
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    world.start_training(spec_of(yuan=600))
    world.cloud.fail("read")
    world.cloud.fail("stop")
    world.run(600)
    timed = world.posted()
    assert timed < 2 * YUAN
    world.cloud.heal()
    world.run(5)
    booked, billed = booked_and_billed(world)
    assert booked >= billed - 20_000 > 2 * timed


def test_a_persons_word_on_the_stop_ends_what_nobody_saw(hourly: World) -> None:
    """However long the platform is silent afterwards."""
    paused(hourly)
    hourly.cloud.fail("read")
    hourly.commands.resume({"job": "job"})
    hourly.run(60)
    hourly.cloud.switch_off(hourly.cloud.machines[0])
    now = datetime.fromtimestamp(hourly.clock.now().utc_ms / 1_000, tz=timezone.utc)
    hourly.commands.confirm_stopped({"job": "job", "at": now.isoformat()})
    hourly.run(2 * HOUR_S)
    hourly.cloud.heal()
    hourly.run(200)
    assert hourly.posted() == 2 * HOUR_MICROS


def test_an_unclear_create_that_is_found_off_is_charged(world: World) -> None:
    """The answer was lost, the lid was closed, and the timer that was set at create ended it."""
    world.cloud.fail("create", Unclear("lost"), times=1, after=True)
    world.cloud.fail("list")
    world.submit()
    world.until(lambda: world.cloud.machines != [])
    world.restart(after_ms=300_000)
    world.cloud.heal()
    world.run(60)
    booked, billed = booked_and_billed(world)
    assert billed <= booked < 2 * billed


def test_a_first_start_whose_answer_was_lost_is_charged(hourly: World) -> None:
    """The second is refused as busy, because the first is under way."""
    machine, calls = paused(hourly), list[str]()

    def start(instance_id: str) -> None:
        calls.append(instance_id)
        if len(calls) == 1:
            raise Unclear("lost")
        hourly.cloud.switch_on(machine)
        hourly.cloud.fail("read")
        raise Busy("another operation is under way")

    hourly.cloud.start = start  # type: ignore[method-assign]  # one answer after the other
    hourly.commands.resume({"job": "job"})
    hourly.until(lambda: len(calls) == 2)
    hourly.run(600)
    hourly.cloud.switch_off(machine)
    hourly.run(5)
    hourly.cloud.heal()
    hourly.commands.pause({"job": "job"})
    hourly.until_state("paused", within_s=400)
    booked, billed = booked_and_billed(hourly)
    assert (booked, billed) == (2 * HOUR_MICROS, 2 * HOUR_MICROS)


def test_a_queue_that_nobody_looks_at_for_a_moment_costs_nothing(world: World) -> None:
    """It waits for a card: what is told so is not charged, whatever the state is called."""
    trained_and_paused(world)
    before = world.posted()
    world.cloud.habits.queues = True
    world.commands.resume({"job": "job"})
    world.run(10)
    world.commands.pause({"job": "job"})
    world.until_state("paused")
    assert world.posted() - before <= 10_000


def test_a_minute_on_at_the_end_of_an_hour_without_a_disk_is_a_minute(world: World) -> None:
    """Its reads of before were kept in memory: it was off for all of that time."""
    machine = trained_and_paused(world)
    world.store.is_broken = True
    world.run(3_600)
    world.cloud.switch_on(machine)
    world.run(70)
    world.store.is_broken = False
    world.run(90)
    booked, billed = booked_and_billed(world)
    assert billed <= booked < billed + 2 * YUAN
