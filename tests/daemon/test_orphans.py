from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.daemon.chores import Chores

if TYPE_CHECKING:
    from costguard.providers.base import Provider
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
