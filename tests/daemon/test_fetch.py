from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.errors import UserError
from costguard.providers.base import NoCapacity
from costguard.store.models import Artifact
from tests.daemon.world import World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable


def pull(world: World) -> dict[str, Any]:
    """As the command does it."""
    return world.commands.pull({"job": "job"})


def home(world: World) -> list[str]:
    """The artifacts that are here."""
    return [row.name for row in world.rows(Artifact, Artifact.pulled_ms.is_not(None))]


def end_with_something_left(world: World) -> None:
    """Trained, finished, and the adapter could not be brought home before the stop."""
    world.set_script(steps=3, adapter=True)
    world.line.pull_fails = True
    world.submit()
    world.until_final()
    world.line.pull_fails = False
    assert home(world) == []
    world.restart()  # what had failed before is tried again


def test_what_was_left_behind_comes_home_and_it_goes_off_again(world: World) -> None:
    """The job ends as it had ended; one start, one more power interval, books right."""
    end_with_something_left(world)
    answer = pull(world)
    assert answer["missing"] == ["adapter"]
    world.until_final(within_s=120)
    assert [row.name for row in world.rows(Artifact, Artifact.pulled_ms.is_not(None))] == [
        "adapter"
    ]
    assert (world.job().state, world.job().pause_reason) == ("finished", "finished")
    assert len(world.cloud.machines[0].runs) == 2
    assert len(world.cloud.routes("start")) == 1
    world.assert_books()


def test_it_comes_home_at_the_pace_of_the_job_file(world: World) -> None:
    """The line has what the job says."""
    world.start_training(replace(spec_of(), pull_bytes_per_s=2_500_000))
    assert world.line.links[-1].plan.pull_bytes_per_s == 2_500_000


def test_nothing_is_trained_again_while_it_fetches(world: World) -> None:
    """The agent tells its journal and starts nothing."""
    end_with_something_left(world)
    steps = world.agent.steps_done
    pull(world)
    world.until_final(within_s=120)
    assert world.agent.steps_done == steps
    assert len(world.events("training_started")) == 1


def test_a_checkpoint_that_nobody_here_knew_of_is_found(world: World) -> None:
    """Saved at the lease's end while the daemon was dead: the disk has it, the books did not."""
    world.set_script(steps=500, checkpoint_at=10)
    world.start_training(spec_of())
    world.run(3)
    world.kill()
    world.pass_time(60_000)
    world.boot()
    world.until_final()
    assert world.rows(Artifact) == []
    reason = world.job().pause_reason
    pull(world)
    world.until_final(within_s=120)
    assert home(world) == ["checkpoint-10"]
    assert (world.job().state, world.job().pause_reason) == ("paused", reason)
    world.assert_books()


def test_a_pause_ends_it(world: World) -> None:
    """The user's hands go before it."""
    end_with_something_left(world)
    world.line.pull_ms = 10**9
    pull(world)
    world.until_state("preparing", within_s=30)
    world.run(10)
    world.commands.pause({"job": "job"})
    world.until_final(within_s=60)
    assert world.job().state == "finished"
    world.assert_books()


def test_a_download_that_never_ends_is_bounded_by_its_lease(world: World) -> None:
    """The money for it is reserved like any other, and runs out like any other."""
    end_with_something_left(world)
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": "1"})
    world.line.pull_ms = 10**9
    pull(world)
    world.until_final(within_s=200)
    assert world.job().state == "finished"
    assert world.events("fetched")[-1].text == "the lease ran out"
    assert world.cloud.machine_micros(world.cloud.machines[0]) <= 1_000_000
    world.assert_books()


def test_without_capacity_it_waits_without_a_reservation(world: World) -> None:
    """And fetches once there is a card."""
    end_with_something_left(world)
    world.cloud.fail("start", NoCapacity("no card free"), times=1)
    pull(world)
    world.until_state("waiting_capacity", within_s=20)
    world.until_final(within_s=200)
    assert home(world) == ["adapter"]
    world.assert_books()


def while_it_trains(world: World) -> None:
    """Not ended yet."""
    world.set_script(steps=99)
    world.start_training()


def after_all_came_home(world: World) -> None:
    """Nothing is missing."""
    world.set_script(steps=3)
    world.submit()
    world.until_final()


def after_its_release(world: World) -> None:
    """No disk any more."""
    end_with_something_left(world)
    world.commands.release({"job": "job"})
    world.until_state("released")


def before_it_ever_trained(world: World) -> None:
    """The instance was not fit for it."""
    world.line.refuses = "the instance is not fit for the job"
    world.submit()
    world.until_final(within_s=60)
    world.line.refuses = None
    world.restart()


@pytest.mark.parametrize("purpose", ["chat", "export"])
def test_nothing_is_switched_on_for_what_was_never_trained(world: World, purpose: str) -> None:
    """Neither for its result nor to talk to it; a person may still look around."""
    before_it_ever_trained(world)
    with pytest.raises(UserError, match="no training of job ever began") as refused:
        pull(world)
    assert refused.value.code == "never_began"
    visit = {"job": "job", "length_ms": 60_000, "quote": True}
    with pytest.raises(UserError, match="no training of job ever began"):
        world.commands.visit({**visit, "purpose": purpose})
    assert world.commands.visit({**visit, "purpose": "shell"})["visit_s"] == 60
    world.run(30)
    assert world.cloud.routes("start") == []


def test_an_attempt_that_never_began_does_not_begin_while_it_fetches(world: World) -> None:
    """The attempt before it left a checkpoint; the one after it was refused before its launch."""
    world.set_script(steps=500, checkpoint_at=10)
    world.line.pull_fails = True
    world.start_training(spec_of())
    world.run(12)
    world.commands.pause({"job": "job"})
    world.until_final()
    world.line.refuses = "the instance is not fit for the job"
    world.commands.resume({"job": "job"})
    world.until_final(within_s=60)
    world.line.refuses, world.line.pull_fails = None, False
    world.restart()
    assert pull(world)["missing"] == ["checkpoint-10"]
    world.until_final(within_s=120)
    assert home(world) == ["checkpoint-10"]
    assert len(world.events("training_started")) == len(world.events("training_ended")) == 1
    assert [event.text for event in world.events("never_began")] == [
        "no training began: stopped before it had begun"
    ]
    world.assert_books()


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (while_it_trains, "not_ended"),
        (after_all_came_home, "all_home"),
        (after_its_release, "released"),
    ],
)
def test_what_makes_no_sense_is_refused(
    prepare: Callable[[World], None], code: str, world: World
) -> None:
    """With a word on what to do instead."""
    prepare(world)
    with pytest.raises(UserError) as refused:
        pull(world)
    assert refused.value.code == code
