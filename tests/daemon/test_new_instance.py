"""`resume --new-instance`: from what is at home, on a new one, the old disk kept and counted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.spec import JobSpec, Stage
from costguard.errors import UserError
from costguard.providers.base import NoCapacity
from costguard.store.models import Artifact, PowerInterval
from tests.daemon.world import YUAN, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEEPER = "job.disk-1"


def anew(world: World, **args: Any) -> dict[str, Any]:
    """As the command does it."""
    return world.commands.resume({"job": "job", "new_instance": True, **args})


def pause_with_a_checkpoint(world: World, home: Path, **changes: Any) -> None:
    """Paused by hand, its checkpoint at step 3 at home, and a disk that costs."""
    world.set_script(steps=500, checkpoint_at=3)
    world.submit(replace(spec_of(**changes), pull_to=str(home)))
    world.until(lambda: world.rows(Artifact, Artifact.pulled_ms.is_not(None)), 60)
    world.commands.pause({"job": "job"})
    world.until_final()


@pytest.fixture
def dear(make_world: Callable[..., World]) -> World:
    """A platform where a paused disk costs 0.36 yuan an hour."""
    return make_world(disk_price=360_000)


def test_it_goes_on_from_the_checkpoint_at_home_on_a_second_instance(
    dear: World, tmp_path: Path
) -> None:
    """One create call more; the checkpoint goes up; the old disk has a job that keeps it."""
    pause_with_a_checkpoint(dear, tmp_path)
    dear.set_script(steps=5)
    answer = anew(dear)
    assert (answer["from"], answer["disk"]) == ("checkpoint-3", KEEPER)
    dear.until_final(within_s=200)
    assert dear.job().state == "finished"
    assert len(dear.cloud.routes("create")) == 2
    assert len(dear.cloud.routes("start")) == 0
    first, second = dear.cloud.machines
    assert (len(first.runs), len(second.runs)) == (1, 1)
    uploads = dear.link.plan.uploads if dear.line.links else ()
    sent = [
        (str(each.local), each.remote) for link in dear.line.links for each in link.plan.uploads
    ]
    assert uploads == () or sent
    assert (str(tmp_path / "job" / "checkpoint-3"), "output/checkpoint-3") in sent
    dear.assert_books()


def test_the_old_disk_goes_on_being_counted_and_can_be_released(
    dear: World, tmp_path: Path
) -> None:
    """To the second where the job left it; the two caps are what the one was; then it is gone."""
    pause_with_a_checkpoint(dear, tmp_path)
    cap, held = dear.job().cap_micros, dear.job().hold_micros
    dear.run(65)
    held = dear.job().hold_micros
    dear.set_script(steps=5)
    anew(dear)
    keeper = dear.job(KEEPER)
    assert (keeper.state, keeper.cap_micros) == ("paused", held)
    assert dear.job().cap_micros + keeper.cap_micros == cap
    dear.until_final(within_s=200)
    dear.run(130)
    disks = dear.rows(PowerInterval, PowerInterval.kind == "disk")
    assert disks[0].ended_ms == disks[1].started_ms
    assert dear.posted(KEEPER) > 0
    dear.commands.release({"job": KEEPER})
    dear.until_state("released", name=KEEPER)
    assert dear.job().state == "finished"
    dear.assert_books()


def test_a_switched_on_old_machine_is_switched_off(dear: World, tmp_path: Path) -> None:
    """Somebody started it in the console: nothing of ours runs uncovered."""
    pause_with_a_checkpoint(dear, tmp_path)
    dear.set_script(steps=5)
    anew(dear)
    dear.until_final(within_s=200)
    dear.cloud.switch_on(dear.cloud.machines[0])
    dear.until(lambda: dear.alarms("is running that should be off"), 130)
    dear.until(lambda: not dear.cloud.charged, 60)


def test_no_capacity_waits_and_makes_no_second_one(dear: World, tmp_path: Path) -> None:
    """Nothing is reserved meanwhile."""
    pause_with_a_checkpoint(dear, tmp_path)
    dear.set_script(steps=5)
    dear.cloud.fail("create", NoCapacity("no card free"), times=2)
    anew(dear)
    dear.until_state("waiting_capacity", within_s=20)
    assert dear.pending() == 0
    dear.until_final(within_s=200)
    assert dear.job().state == "finished"
    assert len(dear.cloud.machines) == 2
    dear.assert_books()


@pytest.mark.parametrize("kill_at", [1, 4, 9, 16])
def test_a_daemon_killed_meanwhile_rents_one(kill_at: int, dear: World, tmp_path: Path) -> None:
    """At whichever commit or call it dies."""
    pause_with_a_checkpoint(dear, tmp_path)
    dear.set_script(steps=5)
    anew(dear)
    dear.kill_at = dear.points + kill_at
    dear.until_final(within_s=200)
    assert dear.job().state == "finished"
    assert len(dear.cloud.machines) == 2
    dear.assert_books()


def test_a_checkpoint_that_is_damaged_at_home_is_not_gone_on_from(
    dear: World, tmp_path: Path
) -> None:
    """It begins anew, and says so."""
    pause_with_a_checkpoint(dear, tmp_path)
    (tmp_path / "job" / "checkpoint-3" / "checkpoint-3.safetensors").write_bytes(b"damaged!")
    assert anew(dear, quote=True)["from"] is None
    anew(dear)
    assert "from the start" in dear.events("resumed")[-1].text


def test_a_quote_changes_nothing(dear: World, tmp_path: Path) -> None:
    """What it would cost, from where, and what becomes of the old disk."""
    pause_with_a_checkpoint(dear, tmp_path)
    before = dear.job()
    told = anew(dear, quote=True)
    assert (told["from"], told["old_disk"]) == ("checkpoint-3", dear.cloud.machines[0].id)
    after = dear.job()
    assert (after.state, after.cap_micros, after.version) == (
        "paused",
        before.cap_micros,
        before.version,
    )


def test_a_released_job_can_go_on_from_home(dear: World, tmp_path: Path) -> None:
    """Its disk is gone: there is none to keep. Without the option that is said."""
    pause_with_a_checkpoint(dear, tmp_path)
    dear.commands.release({"job": "job"})
    dear.until_state("released")
    with pytest.raises(UserError) as refused:
        dear.commands.resume({"job": "job"})
    assert "--new-instance" in refused.value.hint
    dear.set_script(steps=5)
    assert "disk" not in anew(dear)
    dear.until_final(within_s=200)
    assert dear.job().state == "finished"
    dear.assert_books()


def ladder(home: Path) -> JobSpec:
    """Two stages, the second from the first's adapter."""
    spec = spec_of(expects_adapter=True)
    first, second = (replace(spec.runs[0], argv=("train",)) for _ in range(2))
    second = replace(second, argv=("train", "--init_adapter", "../stage-0/output/adapter"))
    stages = (Stage(100), Stage(None, "previous"))
    return replace(spec, runs=(first, second), stages=stages, pull_to=str(home))


def test_a_stage_without_a_checkpoint_gets_the_adapter_before_it(
    world: World, tmp_path: Path
) -> None:
    """Uploaded into its own folder, as the folder beside it is not there."""
    world.set_script(steps=4, adapter=True)
    world.submit(ladder(tmp_path))
    world.until(lambda: world.job().stage == 1 and world.job().state == "training", 100)
    world.commands.pause({"job": "job"})
    world.until_final()
    assert anew(world)["from"] == "adapter"
    world.until_final(within_s=200)
    assert world.job().state == "finished"
    order = world.line.launches[-1]
    assert order["argv"] == ["train", "--init_adapter", "init_adapter"]
    assert [each.remote for each in world.line.links[-1].plan.uploads] == ["init_adapter"]


def test_a_stage_whose_beginning_is_not_at_home_is_refused(world: World, tmp_path: Path) -> None:
    """With the command that brings it."""
    world.set_script(steps=4, adapter=True)
    world.submit(ladder(tmp_path))
    world.until(lambda: world.job().stage == 1 and world.job().state == "training", 100)
    world.commands.pause({"job": "job"})
    world.until_final()
    (tmp_path / "job" / "stage-1" / "adapter" / "adapter.safetensors").unlink()
    with pytest.raises(UserError) as refused:
        anew(world)
    assert refused.value.code == "nothing_at_home"


def test_a_budget_that_does_not_hold_two_disks_is_refused(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """Before the old disk is parted with: the arithmetic counts both."""
    world = make_world(disk_price=2 * YUAN)
    pause_with_a_checkpoint(world, tmp_path, yuan=4)
    with pytest.raises(UserError) as refused:
        anew(world)
    assert refused.value.code == "budget_too_small"
    assert len(world.instances) == 1


def test_a_running_job_is_not_resumed_on_a_second_instance(world: World) -> None:
    """It is to be paused first."""
    world.set_script(steps=99)
    world.start_training()
    with pytest.raises(UserError) as refused:
        anew(world)
    assert "costguard pause job" in refused.value.hint
