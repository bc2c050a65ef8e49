from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.tariff import running_micros
from costguard.errors import UserError
from costguard.providers.base import NoCapacity, Refused, Unclear
from costguard.store.models import LeaseRow
from tests.daemon.world import LATENCY_MS, YUAN, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.fake_cloud import Machine


def resume(world: World, **args: Any) -> dict[str, Any]:
    """As the command does it."""
    return world.commands.resume({"job": "job", **args})


def pause_in_training(world: World, after_s: int = 5) -> Machine:
    """A job that trained for a while and was paused by its user."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.run(after_s)
    world.commands.pause({"job": "job"})
    world.until_final()
    return machine


def test_the_agent_of_the_last_boot_guards_nothing_in_the_next(world: World) -> None:
    """Its lease may still have a while to go: another boot has another agent, or none yet."""
    pause_in_training(world)
    assert world.instances[0].agent_until_ms is not None
    resume(world)
    world.cloud.habits.start_ms = 10_000
    world.until(lambda: world.cloud.routes("start") != [])
    world.run(3)
    assert world.instances[0].agent_until_ms is None


def test_a_paused_job_goes_on_on_its_own_instance(world: World) -> None:
    """Switched on again, trained to the end, off again: one instance, one create call."""
    machine = pause_in_training(world)
    world.set_script(steps=5)
    resume(world)
    world.until_state("training", within_s=30)
    world.until_final()
    assert world.job().state == "finished"
    assert world.cloud.routes("start") == [world.cloud.routes("start")[0]]
    assert len(world.cloud.routes("create")) == 1
    assert len(machine.runs) == 2
    world.assert_books()


def test_nothing_is_switched_on_before_it_is_reserved(world: World) -> None:
    """I2: reserve, then start, then the timer, then the agent's lease."""
    pause_in_training(world)
    world.set_script(steps=5)
    before = len(world.audit.trail)
    resume(world)
    world.until_state("training", within_s=30)
    order = [word for word in world.audit.trail[before:] if word != "charge"]
    wanted = ["reserve", "start", "arm_timer", "agent lease"]
    assert [word for word in order if word in wanted][:4] == wanted


def test_what_was_spent_before_the_pause_counts(world: World) -> None:
    """The cap is the job's, however many attempts it takes."""
    world.set_script(steps=500)
    machine = world.start_training(spec_of(yuan=0.5))
    world.run(5)
    world.commands.pause({"job": "job"})
    world.until_final()
    resume(world)
    world.until_state("training", within_s=30)
    world.until_final()
    assert world.job().pause_reason == "budget"
    assert world.cloud.machine_micros(machine) <= 0.5 * YUAN
    world.assert_books()


def test_a_resume_that_the_budget_does_not_reach_is_refused_with_the_arithmetic(
    world: World,
) -> None:
    """And leaves the job as it was."""
    world.set_script(steps=500)
    world.start_training(spec_of(yuan=0.4))
    world.until_final()
    with pytest.raises(UserError, match=r"cap 0\.40 - spent 0\.\d+ - reserved 0\.00") as refused:
        resume(world)
    assert refused.value.code == "budget_too_small"
    assert world.job().state == "paused"
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": "2"})
    resume(world)
    world.until_state("training", within_s=30)


def test_the_first_attempts_journal_says_nothing_of_the_second(world: World) -> None:
    """Its exit, steps and stop request are over: the second is judged by its own."""
    pause_in_training(world)
    world.set_script(steps=5)
    resume(world)
    world.restart()  # rebuilt from the database, it is told apart as well
    world.until_state("training", within_s=30)
    assert world.job().exit_json is None
    world.until_final()
    assert world.job().pause_reason == "finished"
    assert world.agent.stops == []


@pytest.mark.parametrize("kill_at", range(1, 24, 2))
def test_a_daemon_killed_while_it_resumes_goes_on_and_starts_once(
    kill_at: int, world: World
) -> None:
    """At whichever commit or call it dies, the books are right and the job finishes."""
    machine = pause_in_training(world)
    world.set_script(steps=5)
    resume(world)
    world.kill_at = world.points + kill_at
    world.until_final(within_s=200)
    assert world.job().state == "finished"
    assert len(machine.runs) == 2
    assert len(world.cloud.machines) == 1
    world.assert_books()


def test_no_capacity_waits_reserves_nothing_and_rents_no_second_one(world: World) -> None:
    """Normal after a pause: it looks again, more and more rarely, and says so."""
    pause_in_training(world)
    world.set_script(steps=5)
    world.cloud.fail("start", NoCapacity("no card free"), times=3)
    resume(world)
    world.until_state("waiting_capacity", within_s=10)
    world.run(5)
    assert world.pending() == 0
    assert world.rows(LeaseRow, LeaseRow.state == "open") == []
    world.until_final(within_s=400)
    assert world.job().state == "finished"
    starts = world.cloud.routes("start")
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == sorted(gaps)
    assert len(starts) == 4
    assert len(world.cloud.machines) == 1
    world.assert_books()


def test_a_wait_for_capacity_can_be_ended(world: World) -> None:
    """A pause while it waits needs no stop call: it is off, and proven so."""
    pause_in_training(world)
    world.cloud.fail("start", NoCapacity("no card free"))
    resume(world)
    world.until_state("waiting_capacity", within_s=10)
    world.commands.pause({"job": "job"})
    world.until_final()
    assert world.job().pause_reason == "user"
    world.assert_books()


def test_a_start_that_the_platform_refuses_ends_the_attempt(world: World) -> None:
    """Arrears, say: paused with the platform's word for it, nothing reserved."""
    pause_in_training(world)
    world.cloud.fail("start", Refused("the account is in arrears"))
    resume(world)
    world.until_final()
    assert world.job().pause_reason == "platform"
    assert "arrears" in str(world.job().verdict_text)
    assert world.pending() == 0


@pytest.mark.parametrize("after", [False, True])
def test_an_unclear_start_is_looked_at_and_not_repeated_blindly(after: bool, world: World) -> None:
    """Before the effect: started again once it is known to be off. After it: never again."""
    machine = pause_in_training(world)
    world.set_script(steps=5)
    world.cloud.fail("start", Unclear("timed out"), times=1, after=after)
    resume(world)
    world.until_final(within_s=200)
    assert world.job().state == "finished"
    assert len(world.cloud.routes("start")) == (1 if after else 2)
    assert len(machine.runs) == 2
    world.assert_books()


def test_an_instance_that_never_comes_on_is_not_waited_for_for_ever(world: World) -> None:
    """Start calls that do nothing: paused after the preparing time, nothing charged."""
    pause_in_training(world)
    posted = world.posted()
    world.cloud.habits.start_ms = 10**9
    resume(world)
    world.tick()
    world.cloud.machines[0].power, world.cloud.machines[0].due_ms = "stopped", None
    world.cloud.fail("start", Unclear("timed out"))
    for _ in range(200):
        world.tick(10_000)
    assert world.job().state == "paused"
    assert world.job().pause_reason == "platform"
    tariff = world.cloud.quote(None).tariff
    assert world.posted() - posted <= running_micros(tariff, 0, LATENCY_MS)


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda world: world.start_training(), "not_paused"),
        (lambda world: (world.submit(), world.until_final()), "finished"),
        (
            lambda world: (
                pause_in_training(world),
                world.commands.release({"job": "job"}),
                world.until_state("released"),
            ),
            "released",
        ),
    ],
)
def test_what_cannot_go_on_is_refused(
    prepare: Callable[[World], object], code: str, world: World
) -> None:
    """With what to do instead."""
    prepare(world)
    with pytest.raises(UserError) as refused:
        resume(world)
    assert refused.value.code == code
    assert refused.value.hint


def test_a_finished_job_trains_again_as_its_changed_file_says(world: World) -> None:
    """New data, the same machine: one more attempt under the same cap."""
    world.set_script(steps=3)
    world.submit()
    world.until_final()
    spec = spec_of()
    again = replace(spec, runs=(replace(spec.runs[0], argv=("train", "--dataset", "new")),))
    resume(world, spec=again.to_json())
    world.until(lambda: world.job().state == "training", within_s=30)
    assert world.link.plan.spec["argv"] == ["train", "--dataset", "new"]
    world.until_final()
    assert world.job().attempt == 1
    world.assert_books()


@pytest.mark.parametrize("changes", [{"project": "q"}, {"wish": {"provider": "other"}}])
def test_a_file_that_has_become_another_job_is_refused(
    changes: dict[str, Any], world: World
) -> None:
    """A project's books and a platform's instance cannot be changed under a job."""
    pause_in_training(world)
    with pytest.raises(UserError) as refused:
        resume(world, spec=spec_of(**changes).to_json())
    assert refused.value.code == "another_job"
