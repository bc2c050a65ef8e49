from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.daemon.chores import Chores
from costguard.providers.base import AuthRefused, ProviderError, Unclear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.core.moment import Moment
    from costguard.providers.base import InstanceView, Provider
    from tests.daemon.world import World

HOUR_MS = 3_600_000


def test_another_installations_machines_are_reported_and_not_touched(world: World) -> None:
    """Once an hour while they may cost somebody money; only our own tag is ever acted upon."""
    world.start_training()
    stranger = world.cloud.add("costguard-other-1-1")
    assert world.chores.watch_strays() == []
    assert world.chores.watch_strays() == []
    world.run(5)
    assert stranger.stop_calls_ms == []
    (event,) = world.events("foreign")
    assert "m-2 (costguard-other-1-1)" in event.text
    assert world.alarms() == []


def test_a_machine_of_a_job_nobody_knows_is_reported_each_hour(world: World) -> None:
    """A database that was restored from before the job: said aloud, not acted upon."""
    world.start_training()
    orphan = world.cloud.add("costguard-test-99-1")
    for _ in range(3):
        assert world.chores.watch_strays() == ["m-2"]
    assert len(world.alarms("no job here explains: m-2 on fake")) == 1
    world.clock.advance(HOUR_MS)
    world.chores.watch_strays()
    assert len(world.events("orphan")) == 2
    assert orphan.stop_calls_ms == []


def test_it_is_stopped_where_the_config_says_so(world: World) -> None:
    """As any job's instance is: charged, for as long as it takes, and seen to be off."""
    context = replace(world.context, stops_orphans=lambda: True)
    orphan = world.cloud.add("costguard-test-99-1")
    world.run(3)
    chores = Chores(replace(context, accounts=lambda: ("fake",)))
    assert chores.watch_strays() == ["m-1"]
    assert chores.watch_strays() == []
    world.until_final(60, "orphan.stray-m-1")
    assert orphan.power == "stopped"
    assert world.posted("orphan.stray-m-1") > 0
    assert world.alarms("m-1 is being stopped")
    world.assert_books()


def test_every_account_of_the_config_is_looked_at(world: World) -> None:
    """Whether or not a job has ever rented there; the one on this machine is not started for it."""
    asked: list[str] = []

    def provider(name: str) -> Provider:
        asked.append(name)
        return world.cloud

    accounts = ("autodl", "local")
    Chores(replace(world.context, accounts=lambda: accounts, provider=provider)).watch_strays()
    assert asked == ["autodl"]


# --------------------------------------------------------------------------- soon again


def twins(world: World) -> None:
    """A job trains on one of two machines, and nobody has looked at the list."""
    world.set_script(steps=200)
    world.cloud.habits.makes_twins = True
    world.start_training()


def test_what_was_listed_while_nothing_could_be_written_is_looked_for_again(world: World) -> None:
    """The next round is ten minutes off, and the duplicate costs."""
    twins(world)
    world.store.is_broken = True
    world.chores.watch_strays()
    world.store.is_broken = False
    assert world.chores.watch_again() == ["m-2"]
    world.until(lambda: world.cloud.machines[1].stopped_ms is not None, within_s=10)
    assert world.chores.watch_again() == []


@pytest.mark.parametrize(("error", "again"), [(Unclear("lost"), ["m-2"]), (AuthRefused("no"), [])])
def test_a_list_that_failed_is_asked_for_again(
    world: World, error: ProviderError, again: list[str]
) -> None:
    """Not one that was refused: that is the same no a moment later."""
    twins(world)
    world.cloud.fail("list", error, times=1)
    world.chores.watch_strays()
    assert world.chores.watch_again() == again


def test_nothing_is_listed_again_that_was_listed(world: World) -> None:
    """A look that went well owes none."""
    world.start_training()
    world.chores.watch_strays()
    asked: list[str] = []
    world.cloud.on_call = lambda route, target, timer_ms: asked.append(route)
    world.chores.watch_again()
    assert asked == []


def test_a_second_instance_that_could_not_be_written_down_is_looked_for_again(
    world: World,
) -> None:
    """The disk was full right after the first one was taken over."""
    world.set_script(steps=200)
    world.cloud.habits.makes_twins = True
    world.cloud.fail("create", times=1, after=True)
    take_over = world.cloud.list_tagged

    def list_tagged(tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        world.store.fails_writes, world.store.fails_after = 1, 1
        return take_over(tag_prefix, now)

    world.cloud.list_tagged = list_tagged  # type: ignore[method-assign]  # the disk fills up here
    world.submit()
    world.until(lambda: world.instances and world.instances[0].provider_id)
    assert world.chores.watch_again() == ["m-2"]
