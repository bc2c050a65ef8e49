"""Visits: an ended job's instance, on for a person, under leases, and off again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.errors import UserError
from costguard.providers.base import NoCapacity
from costguard.report.status import status_document
from costguard.store.models import VisitRow
from tests.daemon.world import LEASE_MS, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.fake_cloud import Machine


class Visitor:
    """Asks for a visit, and gives a sign of life with each tick."""

    def __init__(self, world: World, length_s: int = 60, purpose: str = "shell") -> None:
        self.world = world
        args = {"job": "job", "purpose": purpose, "length_ms": length_s * 1_000}
        self.answer = world.commands.visit(args)
        self.seen: list[dict[str, Any]] = []

    def touch(self) -> dict[str, Any]:
        """One sign of life; what is told."""
        args = {"job": "job", "visit": self.answer["visit"]}
        self.seen.append(self.world.commands.visit_touch(args))
        return self.seen[-1]

    def stay(self, seconds: int) -> None:
        """So many seconds, with a sign of life in each."""
        for _ in range(seconds):
            self.world.tick()
            self.touch()

    def until(self, word: str, within_s: int = 60) -> dict[str, Any]:
        """Stay until the visit is `ready` or `over`."""
        for _ in range(within_s):
            if self.touch()["visit"] == word:
                return self.seen[-1]
            self.world.tick()
        raise AssertionError(f"never {word}: {self.seen[-1]}")

    def leave(self) -> None:
        """The shell was left."""
        self.world.commands.visit_end({"job": "job", "visit": self.answer["visit"]})


def end_job(world: World, yuan: float = 5, **script: Any) -> Machine:
    """A job that has finished; from here on the holder of a visit waits for ever."""
    world.set_script(**{"steps": 3, **script})
    world.submit(spec_of(yuan=yuan))
    world.until_final()
    world.set_script(steps=100_000)
    return world.cloud.machines[0]


def armed(world: World) -> set[str]:
    """Who `status` says is armed to switch the machine off."""
    with world.store.read() as session:
        document = status_document(session, world.clock.now().utc_ms, 1, "job")
    return {each["kind"] for each in document["jobs"][0]["enforcers"] if each["armed"]}


def off_after_s(machine: Machine) -> float:
    """How long the second power interval was."""
    began_ms, ended_ms = machine.runs[1].started_ms, machine.runs[1].ended_ms
    assert ended_ms is not None
    return (ended_ms - began_ms) / 1_000


def why(world: World) -> str:
    """Why the newest visit is over."""
    return str(world.rows(VisitRow)[-1].why)


def test_a_visitor_gets_in_and_it_goes_off_once_they_leave(world: World) -> None:
    """Reserved before power on, held without a training, off at once; the job ends as it had."""
    machine = end_job(world)
    before = len(world.audit.trail)
    visitor = Visitor(world)
    ready = visitor.until("ready")
    assert ready["ssh"]["host_keys"]
    assert ready["job_dir"].endswith("/stage-0")
    order = [word for word in world.audit.trail[before:] if word != "charge"]
    wanted = ["reserve", "start", "arm_timer", "agent lease"]
    assert [word for word in order if word in wanted][:4] == wanted
    visitor.stay(5)
    assert world.job().phase == "shell"
    visitor.leave()
    world.until_final(within_s=30)
    assert (world.job().state, world.job().pause_reason) == ("finished", "finished")
    assert visitor.touch()["visit"] == "over"
    assert len(machine.runs) == 2
    assert off_after_s(machine) < 20
    assert len(world.events("training_started")) == 1
    assert {entry.phase for entry in world.ledger() if entry.kind == "charge"} >= {"shell"}
    world.assert_books()


def test_status_says_that_the_agent_guards_a_visit(world: World) -> None:
    """From its first lease on, as in a training; not before, and not once it is off."""
    end_job(world)
    assert armed(world) == set()
    visitor = Visitor(world)
    world.tick()
    assert "agent" not in armed(world), "what the training's agent was granted is of another boot"
    visitor.until("ready")
    visitor.stay(3)
    assert armed(world) == {"daemon", "platform_timer", "agent"}
    world.restart()
    visitor.stay(3)
    assert "agent" in armed(world)
    visitor.leave()
    world.until_final(within_s=30)
    assert armed(world) == set()


def test_it_goes_off_when_its_time_is_over(world: World) -> None:
    """Counted from the start call, whatever the visitor does; no lease lies beyond it."""
    machine = end_job(world)
    visitor = Visitor(world, length_s=50)
    visitor.until("ready")
    visitor.stay(50)
    world.until_final(within_s=30)
    assert "its time, 50 s, is over" in why(world)
    assert off_after_s(machine) <= 50
    world.assert_books()


def test_it_goes_off_before_the_cap_bites(world: World) -> None:
    """A long visit on a small budget: the last lease is the last."""
    machine = end_job(world, yuan=0.7)
    quote = {"job": "job", "purpose": "shell", "length_ms": 3_600_000, "quote": True}
    told = world.commands.visit(quote)
    assert told["reach_s"] < 60
    visitor = Visitor(world, length_s=3_600)
    visitor.until("over", within_s=120)
    world.until_final(within_s=30)
    assert why(world) == "the budget reaches no further"
    assert world.cloud.machine_micros(machine) <= 700_000
    world.assert_books()


def test_a_visitor_who_is_gone_without_a_word_is_not_waited_for(world: World) -> None:
    """Their window was closed, their machine went to sleep: a minute and a half, no more."""
    machine = end_job(world)
    Visitor(world, length_s=3_600).until("ready")
    world.until_final(within_s=150)
    assert "gone without a word" in why(world)
    assert off_after_s(machine) < 120
    world.assert_books()


def test_a_daemon_that_dies_during_a_visit_leaves_it_to_the_others(world: World) -> None:
    """Timer and agent end it with its lease; the books are right when the daemon returns."""
    machine = end_job(world)
    Visitor(world, length_s=3_600).until("ready")
    world.restart(after_ms=120_000)
    world.until_final(within_s=60)
    assert off_after_s(machine) <= LEASE_MS / 1_000 + 20
    assert world.job().state == "finished"
    world.assert_books()


@pytest.mark.parametrize("kill_at", [2, 8, 13, 20])
def test_a_daemon_killed_at_any_commit_of_a_visit_switches_on_once(
    kill_at: int, world: World
) -> None:
    """And off once it is over, with the books right."""
    machine = end_job(world)
    visitor = Visitor(world, length_s=40)
    world.kill_at = world.points + kill_at
    visitor.until("over", within_s=90)
    world.until_final(within_s=60)
    assert len(machine.runs) == 2
    assert len(world.cloud.routes("start")) == 1
    world.assert_books()


@pytest.mark.parametrize("wish", ["pause", "release"])
def test_the_users_hands_go_before_a_visit(wish: str, world: World) -> None:
    """Stopped at once; released after the proof."""
    end_job(world)
    visitor = Visitor(world, length_s=3_600)
    visitor.until("ready")
    getattr(world.commands, wish)({"job": "job"})
    world.tick()
    assert visitor.touch()["visit"] == "over"
    world.until_state("released" if wish == "release" else "finished", within_s=60)
    world.assert_books()


def test_a_visit_waits_for_a_card_without_a_reservation(world: World) -> None:
    """And its time begins with the start that succeeds."""
    machine = end_job(world)
    world.cloud.fail("start", NoCapacity("no card free"), times=1)
    visitor = Visitor(world, length_s=40)
    for _ in range(10):
        visitor.stay(1)
    assert (world.job().state, world.pending()) == ("waiting_capacity", 0)
    visitor.until("ready", within_s=90)
    visitor.stay(60)
    world.until_final(within_s=30)
    assert 30 <= off_after_s(machine) <= 40
    world.assert_books()


def test_a_paused_job_can_be_resumed_after_a_visit(world: World) -> None:
    """A visit changes nothing of where the job stands."""
    world.set_script(steps=500)
    world.start_training()
    world.run(5)
    world.commands.pause({"job": "job"})
    world.until_final()
    world.set_script(steps=100_000)
    visitor = Visitor(world)
    visitor.until("ready")
    visitor.leave()
    world.until_final(within_s=30)
    assert (world.job().state, world.job().pause_reason) == ("paused", "user")
    world.set_script(steps=3)
    world.commands.resume({"job": "job"})
    world.until_state("training", within_s=30)
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_a_visited_disk_is_not_deleted_by_the_job_file(world: World) -> None:
    """after_finish = "release" kept it; a person who was there wants it."""
    world.set_script(steps=3, adapter=True)
    world.line.pull_fails = True
    spec = spec_of(wish={"after_finish": "release"}, expects_adapter=True)
    world.submit(replace(spec, pull_to="home"))
    world.until_final()
    world.run(3)
    world.set_script(steps=100_000)
    visitor = Visitor(world)
    visitor.until("ready")
    visitor.leave()
    world.until_final(within_s=30)
    world.run(70)
    assert (world.job().state, world.job().wish) == ("finished", "keep")


def while_it_trains(world: World) -> None:
    """Not ended."""
    world.set_script(steps=99)
    world.start_training()


def after_its_release(world: World) -> None:
    """No disk any more."""
    end_job(world)
    world.commands.release({"job": "job"})
    world.until_state("released")


def after_its_money(world: World) -> None:
    """Nothing is left of the cap."""
    end_job(world)
    world.commands.budget_set({"scope": "job", "name": "job", "yuan": "0.3"})


@pytest.mark.parametrize(
    ("prepare", "changes", "code"),
    [
        (while_it_trains, {}, "not_ended"),
        (after_its_release, {}, "released"),
        (after_its_money, {}, "budget_too_small"),
        (end_job, {"length_ms": 9_999}, "bad_length"),
        (end_job, {"length_ms": 86_400_001}, "bad_length"),
        (end_job, {"length_ms": "30m"}, "bad_request"),
        (end_job, {"purpose": "party"}, "bad_request"),
    ],
)
def test_what_makes_no_sense_is_refused(
    prepare: Callable[[World], object], changes: dict[str, Any], code: str, world: World
) -> None:
    """Before anything is reserved."""
    prepare(world)
    args = {"job": "job", "purpose": "shell", "length_ms": 60_000, **changes}
    with pytest.raises(UserError) as refused:
        world.commands.visit(args)
    assert refused.value.code == code


def test_another_jobs_visit_cannot_be_touched(world: World) -> None:
    """A number from somewhere else is no visit of this job."""
    end_job(world)
    with pytest.raises(UserError) as refused:
        world.commands.visit_touch({"job": "job", "visit": 7})
    assert refused.value.code == "no_visit"
