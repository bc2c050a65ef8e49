from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.spec import spec_from_json
from costguard.daemon.drills import drill_plan, drilled
from costguard.errors import UserError
from costguard.providers.base import NoCapacity
from costguard.store.drilled import Proof, proof_of
from costguard.store.models import Job
from tests.daemon.fake_cloud import FACTS, Machine
from tests.daemon.world import YUAN, World

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = {"timer_is_proven": True, "timer_late_ms": 812}


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A platform with a timer, at 0.01 yuan a second."""
    return make_world()


def begin(world: World) -> tuple[str, Machine]:
    """A drill whose instance is on; the job's name, and the machine."""
    plan = drill_plan(world.context, {"provider": "fake"})
    world.commands.submit({"spec": plan["spec"], "key": "drill"})
    world.until(lambda: world.cloud.machines and world.cloud.machines[-1].power == "running")
    return str(plan["job"]), world.cloud.machines[-1]


def test_its_price_is_named_before_anything_is_rented(world: World) -> None:
    """As a rule and at most; the cap is the most, and the lease reaches to the drill's end."""
    plan = drill_plan(world.context, {"provider": "fake", "gpu": None})
    spec = spec_from_json(plan["spec"])
    assert spec.drill
    assert spec.cap_micros == round(float(plan["most_yuan"]) * YUAN)
    # 80 minutes, the timer's 8 s, one more second of rounding; and 4 s to stop.
    assert (spec.lease_ms, spec.cap_micros) == (4_809_000, 48_130_000)
    assert 0 < float(plan["usual_yuan"]) < float(plan["most_yuan"])
    assert world.cloud.machines == []


def test_where_hours_are_billed_a_second_one_is_counted(make_world: Callable[..., World]) -> None:
    """It is switched on twice."""
    plan = drill_plan(make_world(quantum_s=3_600).context, {"provider": "fake"})
    assert (plan["usual_yuan"], plan["most_yuan"]) == ("72.00", "108.00")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"timer_min_lead_ms": None}, "no stop timer of its own"),
        ({"timer_is_fixed": True, "timer_min_lead_ms": None}, "a deadline at create alone"),
    ],
)
def test_without_a_timer_there_is_nothing_to_drill(
    make_world: Callable[..., World], changes: dict[str, Any], says: str
) -> None:
    """One sentence, and where to look instead."""
    world = make_world(facts=replace(FACTS, **changes))
    with pytest.raises(UserError) as refused:
        drill_plan(world.context, {"provider": "fake"})
    assert refused.value.code == "no_timer"
    assert says in refused.value.what
    assert "costguard doctor --provider fake" in refused.value.hint


def test_a_platform_without_a_price_is_told(world: World) -> None:
    """Nothing can be promised then."""
    world.cloud.fail("quote", NoCapacity("no such card"))
    with pytest.raises(UserError, match="no such card"):
        drill_plan(world.context, {"provider": "fake"})


def test_the_daemon_meters_and_holds_still(world: World) -> None:
    """The platform's timer stops it, it is switched on again, and each second is charged."""
    name, machine = begin(world)
    world.cloud.arm_timer(machine.id, world.clock.now().utc_ms + 10_000)
    world.until(lambda: machine.power == "stopped", 30)
    world.run(20)
    assert [route for _, route, _ in world.cloud.calls if route == "stop"] == []
    assert world.job(name).state == "provisioning"
    world.cloud.start(machine.id)
    world.run(10)
    world.cloud.stop(machine.id)
    world.until(lambda: machine.power == "stopped", 30)
    drilled(world.context, {"job": name, "shown": SHOWN})
    world.commands.release({"job": name})
    world.until_state("released", name=name)
    assert machine.released_ms is not None
    assert world.pending(name) == 0
    assert world.alarms() == []
    world.assert_books()


def test_a_drill_that_died_is_stopped_at_its_leases_end(world: World) -> None:
    """Whoever drilled is gone: the daemon does as for any job."""
    name, machine = begin(world)
    world.restart()
    world.cloud.habits.timer_ignored = True
    lease = world.lease
    assert lease is not None
    world.clock.advance(lease.end_utc_ms - world.clock.now().utc_ms - 5_000)
    world.run(3)
    assert machine.power == "running"
    world.until_final(60, name)
    assert world.job(name).state == "paused"
    assert machine.power == "stopped"
    world.assert_books()


def test_a_pause_breaks_a_drill_off(world: World) -> None:
    """`costguard daemon stop` pauses everything."""
    name, machine = begin(world)
    world.commands.pause({"all": True})
    world.until_final(60, name)
    assert machine.power == "stopped"
    world.assert_books()


def test_what_was_proven_is_kept(world: World) -> None:
    """And what was not is not; nor is anything of a job that was no drill."""
    name, _ = begin(world)
    nothing = {"timer_is_proven": False, "timer_late_ms": None}
    assert not drilled(world.context, {"job": name, "shown": nothing})["timer_is_proven"]
    with world.store.read() as session:
        assert proof_of(session, "fake") is None
    assert drilled(world.context, {"job": name, "shown": SHOWN})["timer_is_proven"]
    with world.store.read() as session:
        assert proof_of(session, "fake") == Proof(world.clock.now().utc_ms, 812)
    world.commands.release({"job": name})
    world.until_state("released", name=name)
    world.submit()
    with pytest.raises(UserError, match="no drill"):
        drilled(world.context, {"job": "job", "shown": SHOWN})
    assert world.rows(Job)
