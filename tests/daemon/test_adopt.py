from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.errors import UserError
from costguard.providers.base import Unclear
from costguard.store.models import PowerInterval
from tests.daemon.fake_cloud import FACTS, FakeCloud
from tests.daemon.world import YUAN, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.core.moment import Moment
    from costguard.core.spec import JobSpec
    from costguard.providers.base import InstanceView
    from tests.daemon.fake_cloud import Machine


HOUR_MICROS = 36 * YUAN


def somebodys(world: World, *, is_on: bool = True) -> Machine:
    """A machine that a person made in the console, on or off."""
    machine = world.cloud.add("mine")
    world.pass_time(world.cloud.habits.start_ms + 5_000)
    if not is_on:
        world.cloud.switch_off(machine)
        world.pass_time(world.cloud.habits.stop_ms + 5_000)
    return machine


def adopting(machine: Machine, name: str = "job", **changes: Any) -> JobSpec:
    """A job that names it."""
    return spec_of(name, wish={"instance_id": machine.id}, **changes)


def refusal(world: World, spec: JobSpec) -> UserError:
    """Why the job is not taken."""
    with pytest.raises(UserError) as refused:
        world.submit(spec)
    return refused.value


def test_one_that_runs_is_driven_and_metered_from_its_adoption_on(world: World) -> None:
    """No create call, no start call; what ran before is not the job's; off at the end."""
    machine = somebodys(world)
    adopted_ms = world.clock.true_ms
    world.submit(adopting(machine))
    world.until_final()
    assert (world.job().state, world.job().pause_reason) == ("finished", "finished")
    assert world.cloud.routes("create") == world.cloud.routes("start") == []
    assert len(world.cloud.machines) == 1
    assert machine.stopped_ms is not None
    (interval,) = world.rows(PowerInterval, PowerInterval.kind == "running")
    assert interval.started_ms >= adopted_ms
    ran_s = -(-(machine.stopped_ms - adopted_ms) // 1_000)
    assert 0 < world.posted() <= (ran_s + 1) * YUAN // 100
    assert world.cloud.machine_micros(machine) > world.posted()


def test_its_bill_began_before_the_job_and_is_not_held_against_the_books(world: World) -> None:
    """No drift, no adjustment, no confirmed figure."""
    machine = somebodys(world)
    world.submit(adopting(machine))
    world.until_final()
    world.run(60)
    world.chores.reconcile()
    assert world.instances[0].bill_micros is None
    assert not world.events("drift")


def test_one_that_is_off_is_reserved_for_and_then_switched_on_once(world: World) -> None:
    """By the way of every paused instance: reserve, start, timer, agent's lease."""
    machine = somebodys(world, is_on=False)
    world.submit(adopting(machine))
    world.until_final()
    assert world.job().state == "finished"
    assert len(world.cloud.routes("start")) == 1
    assert world.cloud.routes("create") == []
    wanted = ["reserve", "start", "arm_timer", "agent lease"]
    order = [word for word in world.audit.trail if word in wanted]
    assert order[0] == "reserve"
    assert order.index("start") < order.index("arm_timer") < order.index("agent lease")


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("kill_at", range(1, 20, 3))
def test_a_daemon_killed_at_any_point_adopts_once(
    make_world: Callable[..., World], kill_at: int, is_on: bool
) -> None:
    """One row, one word of it, at most one start; the job finishes and the machine is off."""
    world = make_world()
    machine = somebodys(world, is_on=is_on)
    world.submit(adopting(machine))
    world.kill_at = world.points + kill_at
    world.until_final(within_s=200)
    assert world.job().state == "finished"
    assert len(world.intents("adopt")) == len(world.instances) == len(world.cloud.machines) == 1
    assert len(world.cloud.routes("start")) == (0 if is_on else 1)
    assert not machine.is_charged


def test_what_is_unfit_is_refused_with_its_sentence(world: World) -> None:
    """At submission; and where it has become so since, before it is driven."""
    machine = somebodys(world)
    world.submit(adopting(machine, "early"))
    world.cloud.habits.unfit = "it is billed by the month: stopping it saves nothing"
    error = refusal(world, adopting(machine, "late"))
    assert (error.code, error.what) == ("not_adoptable", world.cloud.habits.unfit)
    world.until_final(name="early")
    assert "by the month" in str(world.job("early").verdict_text)
    assert world.instances == []
    assert world.pending("early") == 0


def test_what_another_job_drives_is_refused(world: World) -> None:
    """At submission; and of two that wait for the same one, the first has it."""
    machine = somebodys(world)
    world.set_script(steps=500)
    world.submit(adopting(machine, "a"))
    world.submit(adopting(machine, "b"))
    world.until_state("training", name="a")
    world.until_final(name="b")
    assert "driven by the job a" in str(world.job("b").verdict_text)
    assert "driven by the job a" in refusal(world, adopting(machine, "c")).what
    assert world.job("a").state == "training"


def test_a_job_that_has_ended_lets_go_of_the_machine(world: World) -> None:
    """It must not stop it under the new one, nor be charged for it."""
    machine = somebodys(world)
    world.submit(adopting(machine, "first"))
    world.until_final(name="first")
    posted = world.posted("first")
    world.set_script(steps=300)
    world.submit(adopting(machine, "second", yuan=20))
    world.until_state("training", name="second")
    world.run(130)
    assert world.job("second").state == "training"
    assert world.posted("first") == posted
    assert not world.events("running_without_lease")
    assert world.events("handed_over")


def test_an_unclear_look_reserves_nothing_and_is_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not known cannot be adopted; it is asked for again later, and then driven."""
    machine = somebodys(world)
    world.submit(adopting(machine))
    looks: list[int] = []

    def read(instance_id: str, now: Moment) -> InstanceView:
        looks.append(now.utc_ms)
        if len(looks) == 2:  # the first is for the price
            raise Unclear("500")
        return FakeCloud.read(world.cloud, instance_id, now)

    monkeypatch.setattr(world.cloud, "read", read)
    world.until(lambda: world.events("not_adopted"), within_s=5)
    world.tick()
    assert (world.job().state, world.pending()) == ("waiting_capacity", 0)
    assert world.instances == []
    world.until_final()
    assert world.job().state == "finished"


def test_a_platform_that_makes_none_needs_an_id(make_world: Callable[..., World]) -> None:
    """Refused before anything is reserved or asked for."""
    world = make_world(facts=replace(FACTS, can_create=False))
    error = refusal(world, spec_of())
    assert (error.code, error.exit_code) == ("cannot_create", 7)
    assert world.cloud.calls == []
    world.submit(adopting(somebodys(world)))
    world.until_final()
    assert world.job().state == "finished"


def test_one_that_is_off_and_cannot_be_switched_on_is_refused(
    make_world: Callable[..., World],
) -> None:
    """With where a person can."""
    world = make_world(facts=replace(FACTS, can_resume=False, console_url="https://c.example"))
    error = refusal(world, adopting(somebodys(world, is_on=False)))
    assert error.what == "m-1 is off, and only you can switch it on, at https://c.example"


def test_one_that_is_on_is_metered_though_nobody_looks_again(
    make_world: Callable[..., World],
) -> None:
    """The read that found it on opens its interval; the daemon is away for an hour after it."""
    world = make_world(facts=replace(FACTS, tells_meter_end=False))
    world.cloud.habits.tells_charges = False
    machine = somebodys(world)
    world.submit(adopting(machine, yuan=200))
    world.until(lambda: world.events("adopted"))
    adopted_ms = world.clock.true_ms
    world.restart(after_ms=3_600_000)
    world.run(5)
    (interval,) = world.rows(PowerInterval, PowerInterval.kind == "running")
    assert interval.started_ms <= adopted_ms
    assert world.posted() >= HOUR_MICROS


def test_the_job_that_lets_go_of_it_keeps_no_open_interval(world: World) -> None:
    """It runs, though its stop was called; from here on it is charged to the other job."""
    machine = world.start_training(spec_of(yuan=200))
    world.commands.pause({"job": "job"})
    world.until_final()
    world.cloud.fail("stop")
    world.cloud.switch_on(machine)
    world.run(70)
    first = world.job().id
    world.submit(adopting(machine, "other", yuan=200))
    world.until(lambda: world.job().state == "released")
    assert all(row.ended_ms for row in world.rows(PowerInterval, PowerInterval.job_id == first))
