from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from costguard.store.database import read_only_session
from costguard.store.models import Telemetry
from tests.bench.toy import SCRIPT
from tests.e2e.house import ROOT, House, house

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

SECOND_MICROS = -(-15_000_000 // 3_600)  # one quantum at the platform's 15 yuan an hour
LONG = ["{python}", "toy.py", "600", "0.1", "0"]
# Only the platform's shadow script is ever run: where anything else is found, nothing is.
GUARDED = (
    'echo "found: $(command -v shutdown)"; '
    'test "$(command -v shutdown)" = "$HOME/bin/shutdown" && shutdown -h now && sleep 30; exit 65'
)


def killed(on: House) -> None:
    """SIGKILL in mid-training, then a new daemon: as if nothing had happened."""
    on.submit(["{python}", "toy.py", "40", "0.1", "1000"])
    on.start_training()
    assert on.daemon is not None
    on.daemon.kill()
    on.daemon.wait()
    before = on.truth()["instances"]
    time.sleep(0.3)
    assert on.truth()["instances"][0]["processes"], "the training goes on without a daemon"
    on.start_daemon()
    row = on.wait_final()
    assert (row["state"], row["pause_reason"]) == ("finished", "finished")
    truth = on.truth()
    assert [one["id"] for one in truth["instances"]] == [one["id"] for one in before]
    assert truth["requests"]["create"] == 1
    assert (on.home / "artifacts" / "job" / "adapter" / "adapter_model.safetensors").exists()
    with read_only_session(on.home / "costguard.db") as session:
        rows = session.query(Telemetry).order_by(Telemetry.seq).all()
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        assert sum(row.kind == "progress" for row in rows) == 40
    on.assert_books(SECOND_MICROS)
    assert on.kinds().count("training_started") == on.kinds().count("rented") == 1


def terminated(on: House) -> None:
    """SIGTERM: the daemon ends in order, and what runs ends by itself with its lease."""
    on.submit(LONG, lease="10s")
    on.start_training()
    ends = datetime.fromisoformat(on.row()["lease_expires_at"].replace("Z", "+00:00"))
    assert on.daemon is not None
    on.daemon.send_signal(signal.SIGTERM)
    assert on.daemon.wait(20) == 0
    assert not (on.home / "daemon.sock").exists()
    on.wait(lambda: not on.truth()["instances"][0]["charging"])
    assert on.truth()["instances"][0]["processes"] == []
    on.wait(lambda: datetime.now(timezone.utc) > ends)
    on.start_daemon()
    row = on.wait_final()
    assert (row["state"], row["pause_reason"]) == ("paused", "blind")
    on.assert_books(SECOND_MICROS)


def resumed(on: House) -> None:
    """Paused in mid-training, resumed on the same instance, finished there: one create, one start.

    Its SSH port has changed, its agent is a new one, and nothing of the first attempt is counted
    for the second.
    """
    on.submit(["{python}", "toy.py", "60", "0.1", "1000"])
    on.start_training()
    on.ask("pause", job="job")
    row = on.wait_final()
    assert (row["state"], row["pause_reason"]) == ("paused", "user")
    on.ask("resume", job="job")
    on.wait(lambda: on.row()["state"] == "training")
    row = on.wait_final()
    assert (row["state"], row["pause_reason"]) == ("finished", "finished")
    truth = on.truth()
    assert len(truth["instances"]) == 1
    assert (truth["requests"]["create"], truth["requests"]["start"]) == (1, 1)
    assert (on.home / "artifacts" / "job" / "adapter" / "adapter_model.safetensors").exists()
    on.assert_books(2 * SECOND_MICROS)
    assert on.kinds().count("training_started") == 2


def visited(on: House) -> None:
    """A shell on the finished job's instance, with the command a person types; then off, proven.

    Nothing is trained in it, the platform has seen two power intervals, and what was written
    there stays on the disk.
    """
    on.submit(["{python}", "toy.py", "3", "0.1", "1000"])
    assert on.wait_final()["state"] == "finished"
    done = subprocess.run(
        [sys.executable, "-m", "costguard", "shell", "job", "--yes", "--for", "60s"],
        input="sed -n 2p toy.py; touch was-here; exit 7\n",
        env={**os.environ, "COSTGUARD_HOME": str(on.home)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.strip() == SCRIPT.lstrip().splitlines()[0]
    assert "the meter was seen stopped" in done.stderr
    row = on.row()
    assert (row["state"], row["pause_reason"]) == ("finished", "finished")
    truth = on.truth()
    assert (truth["requests"]["create"], truth["requests"]["start"]) == (1, 1)
    assert not truth["instances"][0]["charging"]
    assert truth["instances"][0]["processes"] == []
    assert list((on.home / "localcloud").glob("instances/*/work/**/was-here"))
    assert on.kinds().count("training_started") == 1
    on.assert_books(2 * SECOND_MICROS)


def given_back(on: House) -> None:
    """after_finish = "release": the adapter is home, and nothing of ours is left over there."""
    on.submit(["{python}", "toy.py", "3", "0.1", "1000"], instance='after_finish = "release"')
    on.wait(lambda: on.row()["state"] == "released")
    assert (on.home / "artifacts" / "job" / "adapter" / "adapter_model.safetensors").exists()
    kinds = on.kinds()
    assert kinds.index("stop_confirmed") < kinds.index("result_home") < kinds.index("released")
    truth = on.truth()
    assert truth["instances"][0]["released_at_ms"] is not None
    assert truth["instances"][0]["processes"] == []
    gone = on.home / "localcloud" / "instances" / truth["instances"][0]["id"]
    assert [path for path in gone.rglob("*") if "costguard" in path.parts[len(gone.parts) :]] == []
    on.assert_books(SECOND_MICROS)


def stopped(on: House) -> None:
    """`daemon stop` that pauses everything: proven off, then daemon and platform are gone."""
    on.submit(LONG)
    on.start_training()
    assert on.ask("stop", mode="pause") == {"unfinished": 0}
    assert on.daemon is not None
    assert on.daemon.wait(20) == 0
    on.wait(lambda: not on.processes())


def powered_off_inside(on: House) -> None:
    """A job that turns its machine off turns off that instance, and nothing else."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    before = boot.read_text() if boot.exists() else ""
    on.submit(["sh", "-c", GUARDED])
    row = on.wait_final()
    lines = on.ask("logs", job="job")["lines"]
    disk = str(on.home / "localcloud")
    assert any(disk in str(line) and "/bin/" in str(line) for line in lines) or lines == []
    truth = on.truth()
    assert [call["via"] for call in truth["stop_calls"]][:1] == ["power_off"]
    assert (row["state"], row["pause_reason"]) == ("paused", "platform")
    assert not truth["instances"][0]["charging"]
    on.assert_books(SECOND_MICROS)
    assert (boot.read_text() if boot.exists() else "") == before


def second_daemon(on: House) -> None:
    """One daemon per home: the second is refused in one clear line, and harms nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "costguard", "daemon", "run"],
        env={**os.environ, "COSTGUARD_HOME": str(on.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "another daemon runs for this home" in done.stderr
    assert on.answers()


STORIES: dict[str, Callable[[House], None]] = {
    story.__name__: story
    for story in (
        killed,
        terminated,
        resumed,
        visited,
        given_back,
        stopped,
        powered_off_inside,
        second_daemon,
    )
}


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, Future[None]]]:
    """Every story in a house of its own, side by side: they mostly wait."""

    def tell(story: Callable[[House], None]) -> None:
        with house() as on:
            on.start_daemon()
            story(on)
            on.end()
            assert on.processes() == [], "something was left behind"

    with ThreadPoolExecutor(3) as pool:
        yield {name: pool.submit(tell, story) for name, story in STORIES.items()}


@pytest.mark.parametrize("story", STORIES)
def test_the_daemon_as_a_process(story: str, told: dict[str, Future[None]]) -> None:
    """Each story as its function says, and nothing left behind."""
    told[story].result()
