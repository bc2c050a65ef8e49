from __future__ import annotations

import functools
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.alone import Alone
from costguard.agent.leases import Leases
from costguard.core.spec import GuardLimits
from tests.agent.harness import Desk, lives, touch, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.agent.harness import Job

HOUR_S = 3600.0
BUSY: dict[str, Any] = {
    "window_s": 5,
    "nvml": {"state": "ok", "detail": ""},
    "cards": [{"index": 0, "util_max": 100}],
    "job": {"processes": 1, "cpu_cores": 1.0, "io_kib": 0, "log_kib": 0},
}
QUIET = {
    **BUSY,
    "cards": [{"index": 0, "util_max": 0}],
    "job": {**BUSY["job"], "cpu_cores": 0.0},
}


class Night:
    """A run whose daemon falls silent after the first lease, hour after hour on a stepped clock."""

    def __init__(self, make: Callable[..., Desk], tmp_path: Path, **toy: Any) -> None:
        self.off = tmp_path / "off"
        self._gates = tmp_path / "gates"
        self._gates.mkdir()
        order = {"gate_each": str(self._gates), "step_s": 0.0, **toy}
        self.desk = make(
            order, in_guest_stop=touch(self.off), save_grace_s=60, expects_adapter=True
        )
        self.desk.gauges = BUSY
        self.began_ms = self.desk.clock.now_ms
        self.desk.lease(9 * HOUR_S, alone=True)

    @property
    def hours(self) -> float:
        """How long the daemon has been asleep."""
        return (self.desk.clock.now_ms - self.began_ms) / 3_600_000

    def train(self, first: int, last: int, step_s: float) -> None:
        """Lets the training take steps, each `step_s` long, a minute of the clock at a time."""
        for step in range(first, last + 1):
            self.desk.until(functools.partial(self._has_logged, step))
            self.wait(step_s)
            (self._gates / str(step)).touch()

    def wait(self, seconds: float) -> None:
        """Lets the clock go on, half a minute at a time."""
        for _ in range(round(seconds / 30)):
            self.desk.clock.advance(30)
            self.desk.step()

    def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts in the journal."""
        return self.desk.of("verdict")

    def _has_logged(self, step: int) -> bool:
        progress = self.desk.supervisor._alone.facts.steps
        return bool(progress) and progress[-1].step >= step


@pytest.fixture
def night(desk: Callable[..., Desk], tmp_path: Path) -> Callable[..., Night]:
    """A run whose daemon sleeps."""
    return lambda **toy: Night(desk, tmp_path, **toy)


def test_a_healthy_run_finishes_saves_and_powers_off_while_the_daemon_sleeps(
    night: Callable[..., Night],
) -> None:
    """Eight hours of sleep: nothing is stopped before its time, then the verdict and power-off."""
    one = night(steps=50)
    one.train(1, 4, 300)
    one.train(5, 50, 600)
    assert one.hours == 8
    assert not one.off.exists()
    one.desk.until(lambda: bool(one.desk.of("exit")))
    one.desk.clock.advance(2)
    one.desk.until(one.off.exists)
    (verdict,) = one.verdicts()
    assert (verdict["reason"], verdict["by"], verdict["powers_off"]) == ("finished", "agent", True)
    assert verdict["evidence"]["artifact_complete"] is True
    (ended,) = one.desk.of("exit")
    assert (ended["code"], ended["stop_id"]) == (0, None)
    assert one.desk.of("checkpoint")[-1]["kind"] == "adapter"
    assert not one.desk.of("stopping")


def test_a_hung_run_is_found_by_its_cadence_and_powered_off(night: Callable[..., Night]) -> None:
    """At 100 % GPU, deaf to SIGTERM: no new step for ten times its pace, then the kill."""
    one = night(steps=1000, on_term="ignore")
    one.train(1, 20, 60)
    hung_at = one.hours
    one.desk.until(lambda: one._has_logged(21))
    one.wait(570)
    assert not one.verdicts()
    one.wait(60)
    (verdict,) = one.verdicts()
    assert verdict["reason"] == "stalled"
    assert verdict["evidence"]["gpu_percent_max"] == 100
    assert verdict["evidence"]["median_step_s"] == 60.0
    assert one.desk.of("stopping")[0]["why"] == "verdict"
    one.wait(60)
    one.desk.until(one.off.exists)
    assert one.desk.of("exit")[0]["signal"] == signal.SIGKILL
    assert one.hours - hung_at < 0.25
    one.desk.clock.advance(60)
    one.desk.until(lambda: one.off.read_text() == "off\noff\n")


def test_a_hung_run_that_answers_saves_first(night: Callable[..., Night]) -> None:
    """SIGTERM, the checkpoint, exit 75, and only then the power-off."""
    one = night(steps=1000)
    one.train(1, 3, 30)
    one.desk.until(lambda: one._has_logged(4))
    one.wait(330)
    one.desk.until(one.off.exists)
    assert one.desk.of("exit")[0]["code"] == 75
    assert one.desk.of("checkpoint")[-1]["complete"] is True
    assert [told["reason"] for told in one.verdicts()] == ["stalled"]


def test_a_run_that_fails_is_powered_off_at_once(night: Callable[..., Night]) -> None:
    """With the exit as evidence; a retry is the daemon's to decide."""
    one = night(steps=2, exit=1, adapter=False)
    one.wait(120)
    one.train(1, 2, 30)
    one.desk.until(lambda: bool(one.desk.of("exit")))
    one.desk.clock.advance(2)
    one.desk.until(one.off.exists)
    (verdict,) = one.verdicts()
    assert verdict["reason"] == "failed"
    assert verdict["evidence"]["exit_code"] == 1


def test_an_idle_run_is_powered_off(night: Callable[..., Night]) -> None:
    """Card and processes quiet for five minutes in the training phase."""
    one = night(steps=1000)
    one.train(1, 3, 60)
    one.desk.until(functools.partial(one._has_logged, 4))  # quiet counts from there
    one.desk.gauges = QUIET
    one.wait(360)
    one.desk.until(one.off.exists)
    assert [told["reason"] for told in one.verdicts()] == ["idle"]


def test_a_finished_job_whose_process_will_not_end_is_ended(night: Callable[..., Night]) -> None:
    """The adapter is whole, the last step logged: a minute later what is left is killed."""
    one = night(steps=2, hold_s=600, on_term="ignore")
    one.train(1, 2, 60)
    one.desk.until(lambda: bool(one.desk.of("checkpoint")))
    one.wait(30)
    assert lives(one.desk.training.pid or 0)
    one.wait(120)
    one.desk.until(one.off.exists)
    (verdict,) = one.verdicts()
    assert (verdict["reason"], verdict["evidence"]["total_steps"]) == ("finished", 2)
    wait_until(lambda: not lives(one.desk.training.pid or 0), "the process's end")


def test_the_lease_ends_also_for_one_who_judges_alone(night: Callable[..., Night]) -> None:
    """A healthy run is saved and powered off when the money for it ends."""
    one = night(steps=1000)
    one.desk.until(lambda: one._has_logged(1))
    one.desk.gauges = BUSY
    one.desk.supervisor._alone._limits = GuardLimits(stall_floor_ms=10**9)
    one.wait(9 * HOUR_S)
    one.desk.until(one.off.exists)
    assert one.hours == 9
    assert not one.verdicts()
    assert one.desk.of("lease")[-1]["state"] == "expired"
    assert one.desk.of("exit")[0]["code"] == 75


def test_without_the_permission_only_the_leases_end_counts(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """A short lease ends soon enough; judging is the daemon's."""
    off = tmp_path / "off"
    one = desk({"steps": 1, "exit": 1}, in_guest_stop=touch(off))
    one.lease(900)
    one.until(lambda: bool(one.of("exit")))
    for _ in range(29):
        one.clock.advance(30)
        one.step()
    assert not one.of("verdict")
    assert not off.exists()
    one.clock.advance(30)
    one.until(off.exists)


def test_while_the_daemon_is_heard_it_judges(night: Callable[..., Night]) -> None:
    """Any message counts; a minute after the last the agent judges."""
    one = night(steps=1, exit=1)
    one.train(1, 1, 30)
    one.desk.until(lambda: bool(one.desk.of("exit")))
    for _ in range(10):
        one.desk.supervisor.receive({"t": "ack", "seq": 1})
        one.wait(30)
    assert not one.verdicts()
    one.wait(30)
    one.desk.until(one.off.exists)
    assert [told["reason"] for told in one.verdicts()] == ["failed"]


def test_a_daemon_that_comes_back_takes_over(night: Callable[..., Night]) -> None:
    """It has the verdict from the journal; the machine waits for it, for the download's sake."""
    one = night(steps=1)
    one.wait(120)
    one.train(1, 1, 30)
    one.desk.until(lambda: bool(one.desk.of("exit")))
    one.desk.supervisor._alone._judge_due_ms = 0
    one.desk.until(lambda: one.off.exists() and one.off.read_text() == "off\n")
    for _ in range(6):
        one.desk.supervisor.receive({"t": "ack", "seq": 1})
        one.wait(30)
    assert one.off.read_text() == "off\n"
    one.wait(60)
    one.desk.until(lambda: one.off.read_text() == "off\noff\n")
    assert len(one.verdicts()) == 1


def test_the_permission_can_be_taken_back(night: Callable[..., Night]) -> None:
    """The daemon's latest word counts, also where the lease's end stays as it was."""
    one = night(steps=1, exit=1)
    one.desk.lease(HOUR_S, alone=False)
    assert one.desk.supervisor._leases.alone is False
    one.desk.step()
    assert one.desk.of("lease")[-1]["alone"] is False
    one.train(1, 1, 30)
    one.wait(300)
    assert not one.verdicts()


def test_without_a_command_the_machine_stays_on_and_it_is_said(
    desk: Callable[..., Desk],
) -> None:
    """On `ssh` there is no default: the verdict ends the training, and a person the machine."""
    one = desk({"steps": 10_000, "step_s": 0.0, "gates": {"2": "/no/such/gate"}})
    one.gauges = BUSY
    one.lease(9 * HOUR_S, alone=True)
    one.until(lambda: len(one.supervisor._alone.facts.steps) >= 2)
    for _ in range(60):
        one.clock.advance(30)
        one.step()
    one.until(lambda: bool(one.of("exit")))
    (verdict,) = one.of("verdict")
    assert (verdict["reason"], verdict["powers_off"]) == ("stalled", False)
    assert not one.of("in_guest_stop")


def test_what_an_agent_before_this_one_knew_is_known_again() -> None:
    """Facts, saves and the verdict, of the run that was adopted alone."""
    lines = [
        {"t": "hello", "boot_ms": 1, "run_id": "old"},
        {"t": "phase", "boot_ms": 2, "phase": "save"},
        {"t": "phase", "boot_ms": 9_002, "phase": "train"},
        {"t": "progress", "boot_ms": 9_003, "step": 7, "loss": 1.0},
        {"t": "hello", "boot_ms": 10_000, "run_id": "mine"},
        {"t": "started", "boot_ms": 10_001},
        {"t": "progress", "boot_ms": 11_000, "step": 1, "loss": 2.0},
        {"t": "hello", "boot_ms": 12_000, "run_id": "mine"},
        {"t": "progress", "boot_ms": 12_500, "step": 2, "loss": 1.9},
        {"t": "verdict", "boot_ms": 13_000, "reason": "stalled", "text": "x", "evidence": {"a": 1}},
    ]
    records = [(str(line["t"]), json.dumps(line).encode()) for line in lines]
    records.insert(3, ("gpu", b"torn"))
    alone = Alone(GuardLimits(), 0, expects_adapter=True)
    alone.remember(records, "mine")
    assert [step.step for step in alone.facts.steps] == [1, 2]
    assert alone.saves.longest_ms == 9_000
    assert alone.verdict is not None
    assert (alone.verdict.reason, alone.verdict.evidence) == ("stalled", {"a": 1})
    alone.remember(records, None)
    assert alone.facts.steps == ()


def test_a_lease_is_restored_with_its_permission() -> None:
    """As journalled; one from before there was such a permission has none."""
    record = {"id": "L1", "ends_boot_ms": 5_000, "alone": True, "valid_ms": 900}
    leases = Leases.restored(record)
    assert (leases.alone, leases.valid_ms, leases.in_force(4_999)) == (True, 900, True)
    assert Leases.restored({"id": "L1", "ends_boot_ms": 5_000}).alone is False


def test_alone_in_a_real_agent(job: Job, tmp_path: Path) -> None:
    """Over the socket and the real clocks: the reader is gone, the training fails, power-off."""
    off = tmp_path / "off"
    job.order(
        {"steps": 3, "exit": 3, "adapter": False},
        in_guest_stop=touch(off),
        expects_adapter=True,
        guards={"silent_after_ms": 300},
    )
    job.start()
    reader = job.attach()
    heartbeat = reader.wait_for("heartbeat")
    lease = {"t": "lease", "id": "L1", "heartbeat": heartbeat["n"], "valid_ms": 600_000}
    reader.send({**lease, "alone": True})
    reader.wait_for("started")
    reader.close()
    wait_until(off.exists, "the power-off")
    later = job.attach()
    assert later.wait_for("verdict")["evidence"]["exit_code"] == 3
    assert later.wait_for("lease", state="granted")["alone"] is True
    assert later.wait_for("in_guest_stop")["attempt"] == 1
