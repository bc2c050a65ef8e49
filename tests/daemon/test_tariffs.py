"""Ledger and bill under every billing rule: two witnesses that share no arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.core.tariff import Tariff, running_micros
from costguard.daemon.load import metered
from costguard.localcloud.rules import PER_CLOCK, Offer, Rules
from costguard.store.models import Instance, LedgerEntry, PowerInterval
from costguard.store.tariffs import set_tariff, tariff_of
from tests.daemon.fake_clock import NOVEMBER_MS
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import YUAN, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.world import World

EIGHT_S = 8 * 3_600  # the world's clock begins at eight in the morning in Shanghai
NIGHT = Offer(50, 0, EIGHT_S + 25)  # ends while the training runs
HOLIDAY = Offer(80, day="2026-11-04")


def ruled(make_world: Callable[..., World], rules: Rules, quantum_s: int = 1) -> World:
    """A world whose platform bills by these rules."""
    world = make_world(quantum_s=quantum_s)
    world.cloud.rules = rules
    world.set_script(steps=40)
    return world


@pytest.mark.parametrize("new_price", [None, 72])
@pytest.mark.parametrize(
    ("rules", "quantum_s"),
    [
        (Rules(PER_CLOCK), 60),
        (Rules(PER_CLOCK), 3_600),
        (Rules(minimum_s=600), 1),
        (Rules(minimum_micros=2 * YUAN), 1),
        (Rules(offers=(NIGHT,)), 1),
        (Rules(offers=(NIGHT,)), 7),
        (Rules(PER_CLOCK, offers=(NIGHT,)), 60),
        (Rules(offers=(NIGHT, HOLIDAY)), 3_600),
        (Rules(PER_CLOCK, 120, 10_000, "Asia/Kolkata", (NIGHT, HOLIDAY)), 20),
    ],
    ids=str,
)
def test_what_is_booked_is_what_is_billed(
    rules: Rules, quantum_s: int, new_price: int | None, make_world: Callable[..., World]
) -> None:
    """Within one quantum for each power interval, a change of price in mid-run or not."""
    world = ruled(make_world, rules, quantum_s)
    world.start_training(spec_of(yuan=200))
    if new_price is not None:
        world.run(5)
        world.cloud.set_price(new_price * YUAN)
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_a_price_that_turns_by_the_clock_cuts_the_interval(
    make_world: Callable[..., World],
) -> None:
    """Each part says its own price; the second goes on counting where the first began."""
    world = ruled(make_world, Rules(offers=(NIGHT,)))
    world.start_training(spec_of(yuan=200))
    world.until_final()
    first, second = world.rows(PowerInterval)
    turn_ms = NOVEMBER_MS + 25_000
    assert (first.price_micros_per_hour, second.price_micros_per_hour) == (18 * YUAN, 36 * YUAN)
    assert (first.ended_ms, second.started_ms, second.origin_ms) == (
        turn_ms,
        turn_ms,
        first.started_ms,
    )
    assert second.earliest_ms == first.earliest_ms
    assert first.earliest_ms is not None
    assert first.earliest_ms < first.started_ms
    assert [event.kind for event in world.events("price_changed")] == []
    total = running_micros(metered(first).tariff, first.started_ms, second.ended_ms or 0)
    assert world.posted() == first.posted_micros + second.posted_micros == total


def test_a_dearer_day_is_reserved_before_it_begins(make_world: Callable[..., World]) -> None:
    """The first lease reaches over the end of the night, and no overrun comes of it."""
    world = make_world(facts=replace(FACTS, creates_once=True))
    world.cloud.rules = Rules(offers=(NIGHT,))
    world.set_script(steps=40)
    world.start_training(spec_of(yuan=200))
    world.until_final()
    assert world.events("overrun") == []
    first = world.rows(LedgerEntry, LedgerEntry.kind == "reserve")[0]
    # From a second past eight: 24 s at half of 0.01 yuan, and 4 s of the 28 at the whole of it.
    assert first.at_ms == NOVEMBER_MS + 1_000
    assert first.amount_micros == 24 * 5_000 + 4 * 10_000


def test_an_hour_that_had_begun_is_not_begun_anew_by_a_new_price(
    make_world: Callable[..., World],
) -> None:
    """Forty seconds at a changed price are one hour, at the price it began with."""
    world = make_world(quantum_s=3_600)
    world.set_script(steps=40)
    world.start_training(spec_of(yuan=200))
    world.cloud.set_price(72 * YUAN)
    world.until_final()
    assert world.posted() == 36 * YUAN
    assert len(world.rows(PowerInterval)) == 2
    world.assert_books()


def test_an_hour_that_somebody_else_began_is_not_ours(make_world: Callable[..., World]) -> None:
    """Found on: charged from the next boundary of the platform's own hours."""
    world = make_world(quantum_s=60)
    world.set_script(steps=200)
    world.submit(spec_of(yuan=200))
    world.tick()
    with world.store.write() as session:  # as if it had been taken over, not started
        session.query(Instance).one().started_call_ms = None
    world.pass_time(5_000)
    world.run(30)
    machine = world.cloud.machines[0]
    (row,) = world.rows(PowerInterval)
    assert (row.origin_ms, row.earliest_ms) == (machine.runs[0].started_ms,) * 2
    assert row.started_ms > machine.runs[0].started_ms
    assert world.posted() == 0
    world.run(60)
    assert world.posted() == world.cloud.machine_micros(machine) // 2


def test_free_time_that_is_left_is_the_next_starts(world: World) -> None:
    """Written down when the meter stops; it stays so whatever the platform goes on saying."""
    world.set_script(steps=20)
    world.cloud.tells_tariff = Tariff(36 * YUAN, free_s=3_600)
    world.start_training()
    world.until_final()
    assert world.posted() == 0
    (row,) = world.rows(PowerInterval)
    ran_s = -(-((row.ended_ms or 0) - row.started_ms) // 1_000)
    (instance,) = world.rows(Instance)
    assert tariff_of(instance).free_s == 3_600 - ran_s


def test_rows_without_a_whole_rule_are_metered_on(world: World) -> None:
    """As an upgrade in mid-run leaves them."""
    world.set_script(steps=20)
    world.start_training()
    with world.store.write() as session:
        for row in session.query(PowerInterval):
            row.tariff_json = row.origin_ms = row.earliest_ms = None
        for instance in session.query(Instance):
            instance.tariff_json = None
    world.restart()
    world.until_final()
    assert len(world.rows(PowerInterval)) == 1
    world.assert_books()


def test_a_rule_is_written_whole(world: World) -> None:
    """With its chief figures beside it."""
    world.start_training()
    rule = Tariff(7, 60, 3, by_clock=True)
    with world.store.write() as session:
        set_tariff(session.query(Instance).one(), rule)
    (instance,) = world.rows(Instance)
    assert (instance.price_micros_per_hour, instance.quantum_s) == (7, 60)
    assert (instance.paused_micros_per_hour, tariff_of(instance)) == (3, rule)
