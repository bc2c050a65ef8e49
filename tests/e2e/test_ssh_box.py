from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from costguard.jobfile import load_job
from costguard.remote.ssh import make_client_key
from tests.bench.toy import SCRIPT
from tests.e2e.house import House, house
from tests.remote.ssh_server import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

JOB = """[job]
name = "job"
budget_yuan = 2
[instance]
provider = "ssh"
[training]
engine = "command"
command = ["{python}", "toy.py", "600", "0.1", "0"]
upload = ["toy.py"]
[advanced]
lease = "60s"
save_grace = "2s"
"""


def working_in(folder: Path) -> list[int]:
    """The processes whose working directory lies in there."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if place.readlink().is_relative_to(folder):
                found.append(int(place.parent.name))
    return found


def trainings(on: House) -> list[int]:
    """Those of them that train."""
    pids = working_in(on.home / "box")
    return [pid for pid in pids if b"toy.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def at_home() -> Iterator[House]:
    """A home whose config has one machine with SSH, which is off: a file says so, no more."""
    with house() as on:
        box = Machine(on.home / "box")
        box.authorized = make_client_key(on.home / "client_key")
        power = on.home / "power"
        power.write_text("stopped\n")
        (on.home / "config.toml").write_text(
            f"""[providers.ssh.box1]
ssh = "ssh -p {box.port} me@127.0.0.1"
price_yuan_per_hour = 15
power_state_command = "cat {power}"
pause_command = "echo stopped > {power}"
resume_command = "echo running > {power}"
work_dir = "{on.home}/box/work"
poll_interval_s = 1
stop_latency_s = 3
"""
        )
        (on.home / "toy.py").write_text(SCRIPT)
        (on.home / "job.toml").write_text(JOB)
        try:
            yield on
        finally:
            on.end()
            for pid in working_in(on.home / "box"):  # the agent outlives its line, as it should
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            box.close()


def test_a_machine_with_ssh_is_switched_on_trains_is_paused_and_seen_stopped(
    at_home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adopted, its key believed because we switched it on; and nothing of it runs on."""
    monkeypatch.setenv("COSTGUARD_HOME", str(at_home.home))
    at_home.start_daemon()
    spec = load_job(at_home.home / "job.toml", best_effort=True)
    answer = at_home.ask("submit", spec=spec.to_json(), key="job")
    assert answer["enforcers"] == ["daemon"]
    at_home.start_training()
    assert (at_home.home / "power").read_text() == "running\n"
    assert trainings(at_home)
    at_home.ask("pause", job="job")
    row = at_home.wait_final()
    assert (row["state"], row["pause_reason"]) == ("paused", "user")
    assert (at_home.home / "power").read_text() == "stopped\n"
    kinds = at_home.kinds()
    order = [kinds.index(kind) for kind in ("adopted", "start_call", "host_key", "stop_confirmed")]
    assert order == sorted(order)
    assert not trainings(at_home)
    assert row["budget"]["reserved_yuan"] == "0.00"
    assert row["budget"]["spent_yuan"] != "0.00"
