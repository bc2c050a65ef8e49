from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.providers.base import Unclear
from costguard.providers.clocks import DAY_MS
from tests.daemon.fake_cloud import FACTS
from tests.daemon.test_resume import pause_in_training
from tests.daemon.world import YUAN, World

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR_PRICE = 36 * YUAN


def test_a_disk_that_will_be_deleted_is_warned_of_at_7_3_and_1_days(
    make_world: Callable[..., World],
) -> None:
    """Once each, with what to do; nothing while it is far off."""
    world = make_world(facts=replace(FACTS, release_after_off_days=15))
    pause_in_training(world)
    told: list[int] = []
    for _ in range(15 * 4):
        world.clock.advance(DAY_MS // 4)
        world.chores.watch_run_outs()
        told = [json.loads(each.data_json)["days"] for each in world.events("release_clock")]
    assert told == [7, 3, 1, 0]
    first = world.events("release_clock")[0].text
    assert "costguard pull job" in first
    assert "m-1" in first


def test_where_nothing_is_deleted_nothing_is_warned_of(world: World) -> None:
    """The platform keeps disks for ever."""
    pause_in_training(world)
    world.clock.advance(40 * DAY_MS)
    world.chores.watch_run_outs()
    assert not world.events("release_clock")


@pytest.mark.parametrize(("hours", "said"), [(3, 1), (4, 0)])
def test_a_wallet_with_less_than_four_hours_is_said_once_an_hour(
    world: World, hours: int, said: int
) -> None:
    """Of what runs there now, and how many hours it still buys."""
    world.set_script(steps=500)
    world.start_training()
    world.cloud.habits.balance = HOUR_PRICE * hours
    for _ in range(3):
        world.chores.watch_run_outs()
    found = world.events("low_balance")
    assert len(found) == said
    assert len(world.alarms("top it up")) == said
    if said:
        assert json.loads(found[0].data_json)["hours"] == "3.0"
        world.clock.advance(3_700_000)
        world.chores.watch_run_outs()
        assert len(world.events("low_balance")) == 2


def test_a_wallet_is_not_asked_after_where_nothing_runs(world: World) -> None:
    """What is off costs no hours."""
    pause_in_training(world)
    world.cloud.habits.balance = 0
    world.chores.watch_run_outs()
    assert not world.events("low_balance")


def test_the_platforms_own_word_on_when_it_deletes_comes_first(world: World) -> None:
    """No rule is known of it, and it tells a day."""
    pause_in_training(world)
    world.cloud.habits.release_at_ms = world.clock.now().utc_ms + 2 * DAY_MS
    world.chores.watch_run_outs()
    (event,) = world.events("release_clock")
    assert json.loads(event.data_json)["days"] == 3
    assert "in 48 hours" in event.text
    assert "costguard release job" in event.text


def test_a_rule_stands_without_the_platforms_word(make_world: Callable[..., World]) -> None:
    """It does not answer now: the days since the stop are counted all the same."""
    world = make_world(facts=replace(FACTS, release_after_off_days=15))
    pause_in_training(world)
    world.clock.advance(13 * DAY_MS)
    world.cloud.fail("read", Unclear("500"), times=9)
    world.chores.watch_run_outs()
    assert json.loads(world.events("release_clock")[0].data_json)["days"] == 3
