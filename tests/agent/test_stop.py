from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from tests.agent.harness import lives, wait_until

if TYPE_CHECKING:
    from tests.agent.harness import Job


def test_stop_saves_and_says_so(job: Job) -> None:
    """SIGTERM, a checkpoint, exit 75; the checkpoint is told before the exit."""
    reader = job.begin({"steps": 10_000})
    reader.wait_for("progress", step=3)
    reader.send({"t": "stop", "id": "S1", "save": True, "grace_s": 20})
    ended = reader.wait_for("exit")
    assert ended["code"] == 75
    assert (ended["stop_id"], ended["killed"]) == ("S1", False)
    (saved,) = reader.of("checkpoint")
    assert saved["complete"] is True
    assert saved["seq"] < ended["seq"]
    assert reader.wait_for("stopping")["why"] == "daemon"


def test_a_repeated_stop_is_not_a_second_signal(job: Job) -> None:
    """Nor is a stop with another id while one is under way: a second SIGTERM means exit now."""
    signals = job.directory / "signals"
    reader = job.begin({"steps": 10_000, "on_term": "ignore", "signals_to": str(signals)})
    reader.wait_for("progress", step=3)
    for stop_id in ("S1", "S1", "S2"):
        reader.send({"t": "stop", "id": stop_id, "save": True, "grace_s": 20})
        wait_until(signals.exists, "the first signal")
    reader.wait_for("stopping", id="S2")
    step = reader.of("progress")[-1]["step"]
    reader.wait_for("progress", step=step + 20)  # long enough for a second signal to be seen
    reader.send({"t": "stop", "id": "S3", "save": False})
    reader.wait_for("exit")
    assert signals.read_text().splitlines() == ["TERM"]
    assert len(reader.of("stopping")) == 4  # S1, S2, S3, and the kill
    assert [record["id"] for record in reader.of("stopping")] == ["S1", "S2", "S3", "S3"]


def test_a_trainer_that_ignores_the_signal_is_killed_after_its_grace(job: Job) -> None:
    """SIGKILL, not before the grace is over."""
    reader = job.begin({"steps": 10_000, "on_term": "ignore"})
    reader.wait_for("progress", step=3)
    began = time.monotonic()
    reader.send({"t": "stop", "id": "S1", "save": True, "grace_s": 0.6})
    ended = reader.wait_for("exit")
    assert 0.6 <= time.monotonic() - began < 5
    assert (ended["code"], ended["signal"]) == (None, signal.SIGKILL)
    assert ended["killed"] is True
    assert reader.wait_for("stopping", why="grace_over")


def test_without_save_the_group_is_killed_at_once(job: Job) -> None:
    """No SIGTERM, no grace."""
    signals = job.directory / "signals"
    reader = job.begin({"steps": 10_000, "signals_to": str(signals)})
    reader.wait_for("progress", step=3)
    reader.send({"t": "stop", "id": "S1", "save": False, "grace_s": 600})
    ended = reader.wait_for("exit")
    assert ended["signal"] == signal.SIGKILL
    assert not signals.exists()


def test_what_the_training_leaves_running_is_ended(job: Job) -> None:
    """A child in its group, and one that fled into a session of its own."""
    reader = job.begin({"fork": True, "steps": 10, "hold_s": 30})
    reader.wait_for("progress", step=10)  # else the stop would be saved for, with another code
    children = [int(pid) for pid in (job.directory / "output/children").read_text().split()]
    job.pids.update(children)
    wait_until(
        lambda: any(record["job"]["processes"] == 3 for record in reader.of("gpu")),
        "a window with both children counted",
    )
    reader.send({"t": "stop", "id": "S1", "save": True, "grace_s": 20})
    reader.wait_for("exit", code=0)
    wait_until(lambda: not any(map(lives, children)), "the children's end", 5)


def test_a_stop_before_the_lease_means_never(job: Job) -> None:
    """The training does not begin, whatever lease comes later, and there is an exit to tell it."""
    job.order()
    job.start()
    reader = job.attach()
    reader.wait_for("heartbeat")
    reader.send({"t": "stop", "id": "S1", "save": True, "grace_s": 5})
    ended = reader.wait_for("exit")
    assert ended["code"] is None
    assert "before it had begun" in ended["detail"]
    reader.lease()
    reader.wait_for("heartbeat", lease_id="L1")
    assert not reader.of("started")


def test_an_agent_that_is_terminated_saves_first(job: Job) -> None:
    """SIGTERM to the agent, as a machine going down sends it: stop, save, record, end."""
    reader = job.begin({"steps": 10_000})
    reader.wait_for("progress", step=3)
    (agent,) = job.pids
    os.kill(agent, signal.SIGTERM)
    ended = reader.wait_for("exit")
    assert ended["code"] == 75
    wait_until(lambda: not lives(agent), "the agent's end")


def test_exit_is_told_at_once(job: Job) -> None:
    """Well within the two seconds that the stop call has; measured in the benchmark."""
    reader = job.begin({"steps": 3})
    ended = reader.wait_for("exit")
    at = reader.messages.index(ended)
    assert reader.received_ns[at] / 1e6 - ended["ended_at_ms"] < 1000
