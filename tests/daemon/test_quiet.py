from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from costguard.daemon.quiet import QUIET_MAX_MS, told_ms
from costguard.providers.base import Busy, NoCapacity, Unclear
from tests.daemon.test_resume import pause_in_training, resume

if TYPE_CHECKING:
    from tests.daemon.world import World


def gaps(world: World, route: str, since_ms: int) -> list[int]:
    """Milliseconds between the calls of a route since then."""
    return [b - a for a, b in pairwise([at for at in world.cloud.routes(route) if at >= since_ms])]


def test_what_a_platform_says_is_kept_within_reason() -> None:
    """A day is not; what says nothing waits as long as it would anyway."""
    assert told_ms(Unclear("429", 7)) == 7_000
    assert told_ms(Unclear("429", 86_400)) == QUIET_MAX_MS == 60_000
    assert told_ms(Unclear("500")) == 0
    assert told_ms(Busy("later", 5), 30_000) == 30_000
    assert told_ms(NoCapacity("none"), 30_000) == 30_000


def test_a_platform_that_had_too_many_calls_is_left_in_peace(world: World) -> None:
    """The power state is asked for when it said, and each poll again from then on."""
    world.set_script(steps=500)
    world.start_training()
    since_ms = world.clock.true_ms
    world.cloud.fail("read", Unclear("429, too many calls", 10), times=1)
    world.run(15)
    assert max(gaps(world, "read", since_ms)) == 10_000
    assert gaps(world, "read", since_ms)[-1] == world.cloud.facts.poll_interval_ms
    assert world.job().state == "training"


def test_a_stop_call_never_waits_for_it(world: World) -> None:
    """Its back-off is its own, whatever reads are told; and it is seen stopped in the end."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.cloud.fail("read", Unclear("429, too many calls", 3_600), times=1)
    world.run(2)
    world.cloud.fail("stop", Unclear("429, too many calls", 3_600), times=4)
    world.commands.pause({"job": "job"})
    since_ms = world.clock.true_ms
    world.until(lambda: len(machine.stop_calls_ms) >= 1, 40)
    calls = [at for at in world.cloud.routes("stop") if at >= since_ms]
    assert len(calls) == 5
    assert [b - a for a, b in pairwise(calls)] == [1_000, 2_000, 4_000, 8_000]
    world.until_final(150)
    assert world.job().state == "paused"
    world.assert_books()


def test_an_unclear_create_is_looked_for_no_oftener_than_is_wanted(world: World) -> None:
    """Its list, too, is held back; then it is found."""
    world.cloud.fail("create", Unclear("429", 5), times=1, after=True)
    world.cloud.fail("list", Unclear("429", 5), times=1)
    world.submit()
    world.run(8)
    assert len(world.cloud.routes("list")) == 1
    world.until_state("training", within_s=30)
    assert len(world.cloud.machines) == 1


@pytest.mark.parametrize(("told_s", "first_ms"), [(5, 30_000), (45, 45_000)])
def test_a_busy_instance_is_switched_on_later(world: World, told_s: float, first_ms: int) -> None:
    """Another operation is under way on it: no reason to give the job up, nor to reserve for it."""
    pause_in_training(world)
    world.set_script(steps=5)
    since_ms = world.clock.true_ms
    world.cloud.fail("start", Busy("another operation is under way", told_s), times=1)
    resume(world)
    world.until_state("waiting_capacity", within_s=10)
    world.run(3)
    assert world.pending() == 0
    assert "under way" in world.events("busy")[0].text
    world.until_final(120)
    assert world.job().state == "finished"
    (gap,) = gaps(world, "start", since_ms)
    assert first_ms <= gap <= first_ms + 1_000
    world.assert_books()


def test_a_create_that_is_told_later_is_made_later(world: World) -> None:
    """It was refused, and not for good."""
    world.cloud.fail("create", Busy("one order at a time", 40), times=1)
    world.submit()
    world.until_state("training", within_s=60)
    (gap,) = gaps(world, "create", 0)
    assert 40_000 <= gap <= 41_000
