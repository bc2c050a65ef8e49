from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.spec import JobSpec, Stage
from costguard.store.models import Artifact
from tests.daemon.world import YUAN, World, spec_of

if TYPE_CHECKING:
    from costguard.core.spec import GuardLimits


def ladder(*gates: int | None, yuan: float = 5, **changes: Any) -> JobSpec:
    """A job of so many stages, with the gate of each."""
    spec = spec_of(yuan=yuan, **changes)
    stages = tuple(Stage(max_samples=100, gate_loss_drop_percent=gate) for gate in gates)
    runs = tuple(replace(spec.runs[0], argv=("train", str(n))) for n in range(len(gates)))
    return replace(spec, stages=stages, runs=runs)


def flat(steps: int) -> dict[int, float | None]:
    """Losses that do not fall."""
    return dict.fromkeys(range(1, steps + 1), 3.0)


def test_the_stages_run_one_after_the_other_on_one_instance(world: World) -> None:
    """Without a stop in between, each in a folder of its own."""
    world.set_script(steps=4)
    world.submit(ladder(None, None, None))
    world.until_final(within_s=200)
    assert world.job().state == "finished"
    assert world.job().stage == 2
    assert [order["argv"] for order in world.line.launches] == [["train", str(n)] for n in range(3)]
    assert len(world.cloud.machines[0].runs) == 1
    assert len({link.plan.job_dir for link in world.line.links}) == 3
    world.assert_books()


def test_charges_belong_to_the_stage_that_ran(world: World) -> None:
    """So that a report can say what each rung has cost."""
    world.set_script(steps=4)
    world.submit(ladder(None, None))
    world.until_final(within_s=200)
    stages = {entry.stage for entry in world.ledger() if entry.kind == "charge"}
    assert stages == {0, 1}


def test_a_stage_goes_on_once_its_adapter_is_home(world: World) -> None:
    """What was paid for is on the disk here before more is spent; each stage has its folder."""
    world.set_script(steps=4, adapter=True)
    world.submit(ladder(None, None, expects_adapter=True))
    world.until_final(within_s=200)
    adapters = world.rows(Artifact, Artifact.kind == "adapter")
    assert [row.path for row in adapters] == [
        "home/job/stage-1/adapter",
        "home/job/stage-2/adapter",
    ]


def test_a_gate_that_is_not_passed_pauses_and_asks(world: World) -> None:
    """The loss did not fall: nothing more is spent until a person has looked."""
    world.set_script(steps=12, losses=flat(12))
    world.submit(ladder(10, None))
    world.until_final(within_s=200)
    job = world.job()
    assert (job.state, job.pause_reason, job.stage) == ("paused", "gate", 0)
    assert "fell by 0.0 %" in str(job.verdict_text)
    world.set_script(steps=4)
    world.commands.resume({"job": "job"})  # the person says: go on
    world.until_final(within_s=200)
    assert (world.job().state, world.job().stage) == ("finished", 1)
    world.assert_books()


def test_a_gate_may_let_it_go_on_and_says_so(world: World) -> None:
    """on_gate = "continue"."""
    world.set_script(steps=12, losses=flat(12))
    limits: GuardLimits = replace(spec_of().guards, on_gate="continue")
    world.submit(replace(ladder(10, None), guards=limits))
    world.until_final(within_s=200)
    assert world.job().state == "finished"
    assert "although the loss fell by 0.0 %" in world.events("stage_done")[0].text


def test_the_budget_ends_a_ladder_wherever_it_is(world: World) -> None:
    """Two stages would fit, three do not: saved and stopped under the cap."""
    world.set_script(steps=20)
    world.submit(ladder(None, None, None, yuan=0.7))
    world.until_final(within_s=300)
    assert world.job().pause_reason == "budget"
    assert world.cloud.machine_micros(world.cloud.machines[0]) <= 0.7 * YUAN
    world.assert_books()


@pytest.mark.parametrize("kill_at", range(1, 80, 8))
def test_a_daemon_killed_between_stages_goes_on_where_it_was(kill_at: int, world: World) -> None:
    """No stage is skipped and none runs twice."""
    world.set_script(steps=4)
    world.submit(ladder(None, None))
    world.until(lambda: bool(world.line.launches) and world.agent.steps_done == 3, within_s=60)
    world.kill_at = world.points + kill_at
    world.until_final(within_s=200)
    assert (world.job().state, world.job().stage) == ("finished", 1)
    assert [launch["run_id"][-1] for launch in world.line.launches] == ["0", "1"]
    world.assert_books()


def test_a_line_that_is_lost_between_stages_is_blind_and_bounded(world: World) -> None:
    """Nobody can start the next stage: the lease ends, and so does the rent."""
    world.set_script(steps=4)
    world.submit(ladder(None, None))
    world.until(lambda: world.job().stage == 1, within_s=60)
    world.line.is_down = True
    world.until_final(within_s=200)
    assert world.job().pause_reason == "blind"
    world.assert_books()


def test_the_time_to_prepare_is_counted_for_each_stage(world: World) -> None:
    """A second stage that begins after half an hour of the first is not late."""
    world.set_script(steps=30)
    spec = ladder(None, None)
    world.submit(replace(spec, guards=replace(spec.guards, prepare_within_ms=20_000)))
    world.until_final(within_s=200)
    assert world.job().state == "finished"
