from __future__ import annotations

import functools
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.harness import lives, touch, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.agent.harness import Desk, Job


def has_lines(path: Path, count: int) -> bool:
    """Whether the file is there and has so many lines."""
    return path.exists() and path.read_text().count("\n") == count


def test_a_lease_that_runs_out_saves_and_powers_off(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """SIGTERM, the checkpoint, exit 75, then the command; and again a minute later."""
    off = tmp_path / "off"
    one = desk({"steps": 100_000}, in_guest_stop=touch(off), save_grace_s=30)
    one.lease(60)
    one.until(lambda: bool(one.of("progress")))
    one.clock.advance(59)
    one.step()
    assert not one.of("stopping")
    one.clock.advance(1)
    one.step()
    assert one.of("lease")[-1]["state"] == "expired"
    assert one.of("stopping")[0]["why"] == "lease"
    one.until(lambda: bool(one.of("exit")))
    assert one.of("exit")[0]["code"] == 75
    assert one.of("checkpoint")[-1]["complete"] is True
    one.until(off.exists)
    one.clock.advance(59)
    one.step()
    assert len([told for told in one.of("in_guest_stop") if "argv" in told]) == 1
    one.clock.advance(1)
    one.until(lambda: off.read_text() == "off\noff\n")
    one.until(lambda: [told["attempt"] for told in one.of("in_guest_stop")].count(2) == 2)
    assert one.of("in_guest_stop")[-1]["returncode"] == 0
    assert not one.supervisor.done


def test_a_trainer_that_will_not_end_is_killed_before_the_power_off(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """After the grace of the order, the group gets SIGKILL; only then the command runs."""
    off = tmp_path / "off"
    toy = {"steps": 100_000, "on_term": "ignore", "fork": True}
    one = desk(toy, in_guest_stop=touch(off), save_grace_s=30)
    one.lease(60)
    one.until(lambda: bool(one.of("progress")))
    children = [int(pid) for pid in (one.directory / "output/children").read_text().split()]
    one.pids.add(children[1])  # fled into its own session: only the agent's own process finds it
    one.clock.advance(60)
    one.step()
    one.clock.advance(29)
    one.step()
    assert not off.exists()
    assert lives(one.training.pid or 0)
    assert len(one.of("stopping")) == 1
    one.clock.advance(1)
    one.until(lambda: bool(one.of("exit")))
    assert one.of("exit")[0]["signal"] == signal.SIGKILL
    wait_until(lambda: not lives(children[0]), "the child's end")
    one.until(off.exists)


def test_a_renewed_lease_holds_everything_off(desk: Callable[..., Desk], tmp_path: Path) -> None:
    """Renewed in time, hour after hour, nothing is stopped."""
    off = tmp_path / "off"
    one = desk({"steps": 100_000}, in_guest_stop=touch(off))
    for _ in range(20):
        one.lease(900)
        one.clock.advance(450)
        one.step()
    assert one.training.running
    assert not one.of("stopping")
    assert not off.exists()


def test_a_lease_that_comes_back_puts_off_the_power_off(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """The training has ended, but the daemon is there again and wants its artifacts."""
    off = tmp_path / "off"
    one = desk({"steps": 100_000}, in_guest_stop=touch(off))
    one.lease(60)
    one.until(lambda: bool(one.of("progress")))
    one.clock.advance(60)
    one.step()
    one.lease(60)
    one.until(lambda: bool(one.of("exit")))
    one.clock.advance(59)
    one.step()
    assert not off.exists()
    one.clock.advance(1)
    one.until(off.exists)


def test_a_refused_lease_starts_nothing(desk: Callable[..., Desk]) -> None:
    """An answer to a heartbeat that was never sent reserves no running time."""
    one = desk()
    one.supervisor.receive({"t": "lease", "id": "L1", "heartbeat": 7, "valid_ms": 60_000})
    one.step()
    assert one.of("lease")[0]["state"] == "refused"
    assert not one.of("started")
    assert one.training.pid is None


def test_after_the_exit_the_machine_is_still_stopped(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """A finished job whose daemon never comes back does not cost the night."""
    off = tmp_path / "off"
    one = desk({"steps": 3}, in_guest_stop=touch(off))
    one.lease(600)
    one.until(lambda: bool(one.of("exit")))
    one.clock.advance(599)
    one.step()
    assert not off.exists()
    one.clock.advance(1)
    one.until(off.exists)


def test_no_first_lease_powers_off(desk: Callable[..., Desk], tmp_path: Path) -> None:
    """Nobody came within the time that the order allows; the training never begins."""
    off = tmp_path / "off"
    one = desk({}, in_guest_stop=touch(off), first_lease_s=120)
    one.clock.advance(119)
    one.step()
    assert not one.of("lease")
    one.clock.advance(1)
    one.until(off.exists)
    assert one.of("lease")[0]["reason"] == "no lease came in time"
    assert not one.of("started")


def test_without_a_command_it_says_that_the_machine_stays_on(desk: Callable[..., Desk]) -> None:
    """There is no default: the host may be somebody's workstation. The agent then ends."""
    one = desk({"steps": 100_000}, in_guest_stop=None)
    one.lease(60)
    one.until(lambda: bool(one.of("progress")))
    one.clock.advance(60)
    one.step()
    assert "the machine stays on" in one.of("lease")[-1]["reason"]
    one.until(lambda: bool(one.of("exit")))
    done = [one.supervisor.done]
    one.clock.advance(10)
    one.step()
    assert [*done, one.supervisor.done] == [False, True]
    assert not one.of("in_guest_stop")


def test_a_command_that_cannot_run_is_told_and_tried_again(desk: Callable[..., Desk]) -> None:
    """A wrong path does not end the agent."""
    one = desk({"steps": 1}, in_guest_stop=["/no/such/power-off"], first_lease_s=1)
    for _ in range(3):
        one.clock.advance(60)
        one.step()
    told = one.of("in_guest_stop")
    assert [record["attempt"] for record in told] == [1, 2, 3]
    assert all("FileNotFoundError" in record["error"] for record in told)


def test_a_command_that_hangs_is_run_again(desk: Callable[..., Desk], tmp_path: Path) -> None:
    """A minute later, beside the one that hangs."""
    pids = tmp_path / "pids"
    hang = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(60)"
    command = [sys.executable, "-c", hang, str(pids)]
    one = desk({}, in_guest_stop=command, first_lease_s=1)
    for count in (1, 2):
        one.clock.advance(60)
        one.until(functools.partial(has_lines, pids, count))
    one.pids.update(int(line) for line in pids.read_text().split())


def test_a_watcher_that_fails_does_not_stop_the_dead_man(
    desk: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in what only looks is told once, and the lease still ends the training."""
    off = tmp_path / "off"
    one = desk({"steps": 100_000}, in_guest_stop=touch(off))

    def fail(**_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(one.watchers.progress, "poll", fail)
    one.lease(60)
    one.until((one.directory / "output/trainer_log.jsonl").exists)
    one.clock.advance(60)
    one.until(off.exists)
    assert one.of("exit")[0]["code"] == 75
    assert len(one.of("fault")) == 1


def test_the_dead_man_in_a_real_agent(job: Job, tmp_path: Path) -> None:
    """The same over the socket and the real clock, with nobody attached when it happens."""
    off = tmp_path / "off"
    job.order({"steps": 10_000}, in_guest_stop=touch(off), save_grace_s=5)
    job.start()
    reader = job.attach()
    reader.lease(700)
    reader.wait_for("progress")
    job.pids.add(reader.of("started")[0]["pid"])
    reader.close()
    wait_until(off.exists, "the power-off")
    later = job.attach()
    assert later.wait_for("exit")["code"] == 75
    assert later.wait_for("lease", state="expired")["id"] == "L1"
    assert later.wait_for("in_guest_stop")["argv"] == touch(off)


def test_an_adopted_training_keeps_its_lease(job: Job) -> None:
    """An agent that was killed and started anew knows until when the money is reserved."""
    job.order({"steps": 10_000}, save_grace_s=5)
    job.start()
    reader = job.attach()
    reader.lease(2_500)
    reader.wait_for("progress")
    (agent,) = job.pids
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: not lives(agent), "the agent's end")
    job.start()
    again = job.attach()
    assert again.wait_for("heartbeat")["training"] == "running"
    assert again.wait_for("stopping")["why"] == "lease"
    again.wait_for("exit")


@pytest.mark.parametrize("jump_s", [86_400 * 365, -86_400 * 365])
def test_a_clock_that_jumps_moves_no_lease(
    desk: Callable[..., Desk], tmp_path: Path, jump_s: int
) -> None:
    """NTP or a person sets the time of day; a lease is counted on the boot-time clock."""
    off = tmp_path / "off"
    one = desk({"steps": 100_000}, in_guest_stop=touch(off))
    one.lease(600)
    one.until(lambda: bool(one.of("progress")))
    one.clock.utc_jump_ms = jump_s * 1000
    one.clock.advance(599)
    one.step()
    assert not one.of("stopping")
    one.clock.advance(1)
    one.until(off.exists)
    records = list(map(json.loads, (one.directory / "journal.jsonl").read_bytes().splitlines()))
    assert [one["boot_ms"] for one in records] == sorted(one["boot_ms"] for one in records)
    assert abs(records[-1]["at_ms"] - records[0]["at_ms"]) > 86_400_000
