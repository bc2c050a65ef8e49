from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.errors import UserError
from costguard.providers.base import Refused
from costguard.report.figures import time_text
from costguard.report.status import status_document
from costguard.store.database import Store
from costguard.store.models import Instance
from tests.daemon.fake_cloud import FACTS
from tests.daemon.test_adopt import adopting, somebodys
from tests.daemon.test_resume import pause_in_training, resume
from tests.daemon.world import GRACE_MS, LEASE_MS, YUAN, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.fake_cloud import Machine

CONSOLE = "https://console.example"
BY_HAND = replace(
    FACTS,
    can_stop=False,
    can_create=False,
    timer_min_lead_ms=None,
    arms_timer_at_create=False,
    in_guest_stop=None,
    in_guest_stop_proven=False,
    console_url=CONSOLE,
)
FIXED = replace(
    FACTS,
    timer_is_fixed=True,
    timer_min_lead_ms=None,
    in_guest_stop=None,
    in_guest_stop_proven=False,
)


def enforcers_of(world: World) -> list[dict[str, object]]:
    """Who stops the machine, as `status` shows it while a daemon runs."""
    with Store.read(world.store) as session:
        document = status_document(session, world.clock.now().utc_ms, 1, "job")
    found: list[dict[str, object]] = document["jobs"][0]["enforcers"]
    return found


@pytest.fixture
def box(make_world: Callable[..., World]) -> World:
    """A world whose platform has no stop: only a person can."""
    world = make_world(facts=BY_HAND)
    refusal = Refused(f"there is no pause_command, so that only you can stop it, at {CONSOLE}")
    world.cloud.fail("stop", refusal)
    return world


def test_a_release_lets_go_of_it_and_says_what_is_left_there(box: World) -> None:
    """It is nobody's but the user's: nothing is deleted, and its name is free for the next job."""
    box.set_script(steps=500, checkpoint_at=1)
    box.line.pull_fails = True
    machine = somebodys(box)
    box.submit(adopting(machine, best_effort=True))
    box.until_state("training")
    box.run(3)
    box.commands.pause({"job": "job"})
    box.run(15)
    box.cloud.switch_off(machine)
    box.run(5)
    at = time_text(box.clock.now().utc_ms)
    box.commands.confirm_stopped({"job": "job", "at": at})
    box.until_final(within_s=120)
    answer = box.commands.release({"job": "job"})
    box.until_state("released", within_s=60)
    (row,) = box.rows(Instance)
    folder = f"{row.work_dir}/costguard"
    assert answer["left"] == (
        "the machine is yours and stays as it is: remove what is left there with "
        f"rm -rf {folder}/{row.tag}; {folder} also holds caches and environments for the next job"
        "; not at home: checkpoint-1"
    )
    assert box.events("released")[-1].text == answer["left"]
    assert box.cloud.routes("release") == []
    assert row.released_ms is not None
    assert box.job().hold_micros == 0


def train_and_pause(world: World) -> Machine:
    """An adopted machine whose training was saved and ended, and which still runs."""
    machine = somebodys(world)
    world.set_script(steps=500)
    world.submit(adopting(machine, best_effort=True))
    world.until_state("training")
    world.commands.pause({"job": "job"})
    world.run(15)
    return machine


def test_where_only_a_person_can_stop_it_best_effort_must_be_said(box: World) -> None:
    """A proven stop from inside changes nothing about that; the bound names the console."""
    machine = somebodys(box)
    with pytest.raises(UserError) as refused:
        box.submit(adopting(machine))
    assert refused.value.code == "cap_not_enforceable"
    answer = box.submit(adopting(machine, best_effort=True))
    assert CONSOLE in answer["lines"][0]
    assert answer["enforcers"] == ["nobody but you"]
    box.until_state("training")
    assert [each["armed"] for each in enforcers_of(box)[:2]] == [False, False]


def test_the_training_is_ended_and_then_it_is_said_aloud_and_charged_on(box: World) -> None:
    """Saved through the agent; never shown as stopped; each second still in the books."""
    machine = train_and_pause(box)
    assert box.agent.stops, "the agent was asked to save"
    assert box.job().exit_json is not None
    assert box.job().state == "pausing"
    assert box.alarms(f"only you can stop it at {CONSOLE}; then say so: costguard confirm-stopped")
    posted = box.posted()
    box.run(60)
    assert machine.is_charged
    assert box.posted() >= posted + 59 * YUAN // 100
    assert box.job().state == "pausing"
    assert not box.events("stop_confirmed")


def test_it_ends_on_a_read_that_shows_it_off(box: World) -> None:
    """Somebody has switched it off in the console: proven as any stop is."""
    machine = train_and_pause(box)
    box.cloud.switch_off(machine)
    box.until_final(within_s=30)
    assert box.job().state == "paused"
    assert box.events("stop_confirmed")


def test_it_ends_on_a_persons_word_where_no_read_can_show_it(box: World) -> None:
    """The platform is silent: attested, and shown as no more than that."""
    machine = train_and_pause(box)
    box.cloud.habits.is_absent = True
    box.cloud.switch_off(machine)
    box.run(5)
    at = time_text(box.clock.now().utc_ms)
    assert box.commands.confirm_stopped({"job": "job", "at": at})["proven"] is False
    box.until_final(within_s=30)
    assert not box.events("stop_confirmed")


# ------------------------------------------------------------- a deadline that is set only once


def timer_of(world: World) -> dict[str, object]:
    """The platform's timer as `status` shows it."""
    row = enforcers_of(world)[1]
    assert row["kind"] == "platform_timer"
    return row


def test_a_fixed_deadline_lies_where_the_caps_end_and_is_no_lease(
    make_world: Callable[..., World],
) -> None:
    """Leases are renewed under it by the daemon alone; shown until then, and as not read back."""
    world = make_world(facts=FIXED)
    with pytest.raises(UserError, match="nothing but this daemon"):
        world.submit(spec_of())
    world.set_script(steps=500)
    machine = world.start_training(spec_of(best_effort=True))
    assert machine.timer_ms is not None
    deadline_s = (machine.timer_ms - machine.created_ms) // 1_000
    assert LEASE_MS // 1_000 * 5 < deadline_s <= 500 + GRACE_MS // 1_000, "5 yuan at 0.01 a second"
    told_ms, machine.timer_ms = machine.timer_ms, None  # it is never told again
    world.run(LEASE_MS // 1_000 * 2)
    assert world.job().state == "training"
    assert world.cloud.routes("arm_timer") == []
    shown = timer_of(world)
    assert (shown["armed"], shown["proven"]) == (True, False)
    assert world.instances[0].timer_at_ms is not None
    assert abs(world.instances[0].timer_at_ms - told_ms) < 1_000


def test_after_a_resume_a_fixed_deadline_is_gone(make_world: Callable[..., World]) -> None:
    """It was the first boot's: nothing is shown that is not armed."""
    world = make_world(facts=FIXED)
    submit = world.submit
    world.submit = lambda spec=None, key="": submit(spec_of(best_effort=True), key)  # type: ignore[method-assign]
    pause_in_training(world)
    resume(world)
    world.until_state("training", within_s=30)
    assert world.instances[0].timer_at_ms is None
    assert timer_of(world)["armed"] is False


# ------------------------------------------------------------- a stop from inside that you named


@pytest.mark.parametrize(
    ("command", "worth", "armed", "says"),
    [
        (("sh", "-c", "mine"), "given", True, "agent (your command, not proven)"),
        (("sh", "-c", "theirs"), "unproven", True, "agent (not proven)"),
        (None, "none", False, None),
    ],
)
def test_a_stop_from_inside_that_you_named_is_armed_and_not_called_proven(
    make_world: Callable[..., World],
    command: tuple[str, ...] | None,
    worth: str,
    armed: bool,
    says: str | None,
) -> None:
    """The cap still needs --best-effort; without a command the agent switches nothing off."""
    facts = replace(
        BY_HAND,
        can_stop=True,
        can_create=True,
        in_guest_stop=command,
        in_guest_stop_given=worth == "given",
    )
    world = make_world(facts=facts)
    with pytest.raises(UserError, match="nothing but this daemon"):
        world.submit(spec_of())
    world.set_script(steps=500)
    answer = world.submit(spec_of(best_effort=True))
    assert answer["enforcers"] == (["daemon"] if says is None else ["daemon", says])
    world.until_state("training", within_s=30)
    assert world.instances[0].guest_stop == worth
    agent = enforcers_of(world)[2]
    assert (agent["kind"], agent["armed"], agent["proven"]) == ("agent", armed, False)
