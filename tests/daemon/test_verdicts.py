from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon.world import FINAL, spec_of

if TYPE_CHECKING:
    from tests.daemon.world import World

HANGS = {"steps": 100, "hangs_at": 4}
GROWN: dict[int, float | None] = {step: 0.1 if step < 3 else 2.0 for step in range(1, 60)}

# What the training does, what the job says, and how it has to end.
PATHS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "exit 0": ({"steps": 4}, {}, "finished", "finished"),
    "exit 1": ({"steps": 4, "exit_code": 1}, {}, "failed", "failed"),
    "refused data": ({"steps": 1, "exit_code": 65}, {}, "failed", "failed"),
    "exit 70": ({"steps": 4, "exit_code": 70}, {}, "diverged", "paused"),
    "no adapter": ({"steps": 4}, {"expects_adapter": True}, "failed", "failed"),
    "no step": (HANGS, {}, "stalled", "paused"),
    "asleep": ({**HANGS, "quiet": True}, {}, "idle", "paused"),
    "gone": ({**HANGS, "vanishes": True}, {}, "idle", "paused"),
    "loss not a number": ({"steps": 50, "losses": {3: None}}, {}, "diverged", "paused"),
    "loss grows": ({"steps": 59, "losses": GROWN}, {}, "diverged", "paused"),
    "max_hours": ({"steps": 100}, {"guards": {"max_ms": 6_000}}, "max_hours", "paused"),
    "the cap": ({"steps": 500}, {"yuan": 0.4}, "budget", "paused"),
}


@pytest.mark.parametrize("path", PATHS)
def test_every_verdict_leads_to_a_proven_stop(path: str, world: World) -> None:
    """From what the agent tells to the right final state, off, settled, and billed alike."""
    script, changes, reason, state = PATHS[path]
    world.set_script(**script)
    world.submit(spec_of(**changes))
    world.until_final()
    job = world.job()
    assert (job.pause_reason, job.state) == (reason, state)
    assert [event.kind for event in world.events("verdict", "stop_confirmed", "overrun")] == [
        "verdict",
        "stop_confirmed",
    ]
    assert world.pending() == 0
    world.assert_books()


@pytest.mark.parametrize(
    ("path", "text", "evidence"),
    [
        ("exit 1", "exit code 1", {"exit_code": 1, "class": "crash"}),
        ("no step", "no new step for 10 s", {"phase": "train", "allowance_s": 10, "step": 4}),
        ("asleep", "CPU quiet for 8 s", {"quiet_s": 8, "limit_s": 8, "cpu_cores": 0.0}),
        ("max_hours", "has run for", {"ran_s": 6, "limit_s": 6}),
        ("the cap", "does not fit the budget", {"lease_left_s": 4}),
    ],
)
def test_every_verdict_keeps_its_evidence(
    path: str, text: str, evidence: dict[str, Any], world: World
) -> None:
    """`explain` has what it was seen from."""
    script, changes, _, _ = PATHS[path]
    world.set_script(**script)
    world.submit(spec_of(**changes))
    world.until_final()
    job = world.job()
    assert text in (job.verdict_text or "")
    kept = json.loads(job.verdict_json or "{}")
    assert {key: kept.get(key) for key in evidence} == evidence


@pytest.mark.parametrize("wish", ["pause", "release"])
def test_a_persons_wish_saves_stops_and_is_carried_out(wish: str, world: World) -> None:
    """`pause` keeps the disk, `release` gives it back, each after a save and the proof."""
    machine = world.start_training()
    getattr(world.commands, wish)({"job": "job"})
    world.until_state("paused" if wish == "pause" else "released", within_s=90)
    assert world.agent.stops
    assert world.job().pause_reason == "user"
    assert (machine.released_ms is not None) == (wish == "release")
    world.assert_books()


def test_a_silent_instance_is_blind_and_paused_through_the_platform(world: World) -> None:
    """Nothing is heard: reconnect all the while, then stop without SSH."""
    world.set_script(steps=500)
    world.start_training(spec_of(guards={"blind_after_ms": 10_000}))
    world.run(3)
    world.line.is_down = True
    world.until_final()
    assert world.job().pause_reason == "blind"
    world.assert_books()


def test_blind_is_bounded_by_the_lease(world: World) -> None:
    """No renewal is granted to what is not heard, however long blind_after is."""
    world.set_script(steps=500)
    world.start_training()
    world.line.is_down = True
    lease = world.lease
    assert lease is not None
    world.until_final()
    assert world.job().pause_reason == "blind"
    stopped_ms = world.cloud.machines[0].stopped_ms
    assert stopped_ms is not None
    assert stopped_ms <= lease.end_utc_ms + lease.latency_ms
    world.assert_books()


def test_a_line_that_comes_back_in_time_costs_nothing(world: World) -> None:
    """A cut shorter than the lease leaves the run as it was; nothing is lost or counted twice."""
    world.set_script(steps=40)
    world.start_training()
    world.line.is_down = True
    world.run(8)
    world.line.is_down = False
    world.until_final()
    assert world.job().state == "finished"
    assert world.job().last_seq == len(world.agent.journal)


def test_a_machine_that_goes_off_by_itself_is_the_platforms_doing(world: World) -> None:
    """Switched off by someone else: verdict platform, and the meter's end is believed."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.cloud.switch_off(machine)
    world.until_final()
    assert (world.job().pause_reason, world.job().state) == ("platform", "paused")
    world.assert_books()


def test_a_refused_line_ends_the_run(world: World) -> None:
    """A changed host key is no reason to go on paying."""
    world.line.refuses = "the host key is another one"
    world.submit()
    world.until_final()
    assert world.job().pause_reason == "platform"
    assert "host key" in (world.job().verdict_text or "")
    world.assert_books()


def test_an_instance_that_never_starts_training_is_given_up(world: World) -> None:
    """Preparing is bounded; nothing is paid for ever."""
    world.set_script(prepare_ms=10**9)
    world.submit(spec_of(guards={"prepare_within_ms": 15_000}))
    world.until_final()
    assert world.job().pause_reason == "platform"
    world.assert_books()


def test_a_finished_adapter_comes_home_before_the_power_goes_off(world: World) -> None:
    """The end of training is not the loss of its result."""
    world.set_script(steps=3, adapter=True)
    world.line.pull_ms = 3_000
    world.submit(spec_of(expects_adapter=True))
    world.until_final()
    assert world.line.pulled == ["adapter"]
    assert [event.text for event in world.events("pulled")] == ["adapter is home and verified"]
    world.assert_books()


def test_a_download_that_fails_does_not_keep_the_machine_on(world: World) -> None:
    """It is tried again a few times, told, and then the machine goes off."""
    world.set_script(steps=3, adapter=True)
    world.line.pull_fails = True
    world.submit(spec_of(expects_adapter=True))
    world.until_final()
    assert world.job().state == "finished"
    assert len(world.events("pull_failed")) == 3
    world.assert_books()


def test_a_training_that_ignores_the_request_is_switched_off_after_its_grace(world: World) -> None:
    """Saving has its time and no more."""
    world.set_script(steps=500, ignores_stop=True)
    machine = world.start_training()
    asked_ms = world.clock.true_ms
    world.commands.pause({"job": "job"})
    world.until_final()
    assert machine.stop_calls_ms[0] - asked_ms <= 4_000 + 2_000
    world.assert_books()


def test_a_checkpoint_travels_home_while_training_runs(world: World) -> None:
    """Not only at the end."""
    world.set_script(steps=30, checkpoint_at=3)
    world.start_training()
    world.until(lambda: world.line.pulled == ["checkpoint-3"], within_s=15)
    assert world.job().state == "training"


@pytest.mark.parametrize("state", FINAL[:3])
def test_nothing_happens_after_the_end(state: str, world: World) -> None:
    """A final state is left alone: no call but a look once a minute."""
    world.set_script(steps=2, exit_code=1 if state == "failed" else 0)
    world.submit()
    if state == "paused":
        world.until_state("training")
        world.commands.pause({"job": "job"})
    world.until_final()
    assert world.job().state == state
    before = len(world.cloud.calls)
    world.run(121)
    later = [route for _, route, _ in world.cloud.calls[before:]]
    assert set(later) <= {"read", "bill"}
    assert later.count("read") <= 4
