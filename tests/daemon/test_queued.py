from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.providers.base import Unclear
from costguard.store.models import LeaseRow
from tests.daemon.test_resume import pause_in_training, resume

if TYPE_CHECKING:
    from tests.daemon.world import World


@pytest.mark.parametrize("tells_charges", [True, False])
def test_a_start_that_is_only_queued_is_called_off_and_tried_again(
    world: World, tells_charges: bool
) -> None:
    """Shown as waiting, nothing charged for it, nothing reserved in between; then it comes on."""
    world.cloud.habits.tells_charges = tells_charges
    machine = pause_in_training(world)
    spent = world.posted()
    world.set_script(steps=5)
    world.cloud.habits.queues = True
    resume(world)
    world.until_state("waiting_capacity", within_s=5)
    world.run(25)
    assert machine.power == "starting", "half a minute is given to it"
    world.run(10)
    assert machine.power == "stopped"
    assert world.rows(LeaseRow, LeaseRow.state == "open") == []
    assert world.posted() == spent
    assert "queued" in world.events("no_capacity")[0].text
    world.cloud.habits.queues = False
    world.until_final(within_s=120)
    assert world.job().state == "finished"
    assert len(world.cloud.routes("start")) == 2
    world.assert_books()


def test_a_start_that_cannot_be_called_off_is_called_off_again(world: World) -> None:
    """It stays paid for until it is."""
    machine = pause_in_training(world)
    world.cloud.habits.queues = True
    resume(world)
    world.until_state("waiting_capacity", within_s=5)
    world.cloud.fail("stop", Unclear("500"), times=1)
    world.until(lambda: any("the start waits on" in text for _, _, text in world.notices), 40)
    assert world.lease is not None
    world.until(lambda: machine.power == "stopped", 10)
    world.commands.pause({"job": "job"})
    world.until_final()
    world.assert_books()


def test_a_wait_in_the_queue_ends_with_a_pause(world: World) -> None:
    """As any other."""
    machine = pause_in_training(world)
    world.cloud.habits.queues = True
    resume(world)
    world.run(5)
    world.commands.pause({"job": "job"})
    world.until_final()
    assert machine.power == "stopped"
    world.assert_books()


def test_what_comes_up_without_a_card_is_never_trained_on(world: World) -> None:
    """Seen twice, it is switched off; the disk is kept, and the sentence says what to do."""
    machine = pause_in_training(world)
    launches = len(world.line.agents)
    world.cloud.habits.cards = 0
    resume(world)
    world.until_final()
    job = world.job()
    assert (job.state, job.pause_reason) == ("paused", "platform")
    assert "without a GPU" in str(job.verdict_text)
    assert machine.power == "stopped"
    assert len(world.line.agents) == launches
    world.assert_books()


def test_one_look_without_cards_is_not_believed(world: World) -> None:
    """They may be listed a moment later; until then nothing is begun on it."""
    pause_in_training(world)
    world.set_script(steps=5)
    world.cloud.habits.cards = 0
    resume(world)
    world.until(lambda: world.cloud.machines[0].power == "running", 10)
    world.cloud.habits.cards = 1
    world.until_final()
    assert world.job().state == "finished"


def test_a_pull_needs_no_card(world: World) -> None:
    """What lies on the disk is brought home all the same."""
    pause_in_training(world)
    world.cloud.habits.cards = 0
    world.commands.pull({"job": "job"})
    world.until(lambda: bool(world.events("fetched")), 60)
    assert "everything is home" in world.events("fetched")[0].text
