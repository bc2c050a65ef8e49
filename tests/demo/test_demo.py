from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

TIMEOUT_S = 240
MARK = "costguard-demo-"


def start(scenario: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    """A demo as a person starts it, in a folder of its own."""
    environment = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "80", "LANG": "C.UTF-8"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    with (folder / "err.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "costguard", "demo", "--scenario", scenario, *options],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )


def left_of(folder: Path) -> list[str]:
    """Command lines of processes that still work in the demo's folder."""
    asked = subprocess.run(
        ["ps", "-eww", "-o", "args="], capture_output=True, text=True, check=True
    )
    return [line for line in asked.stdout.splitlines() if str(folder / MARK) in line]


@pytest.mark.parametrize(
    ("scenario", "verdict", "state"),
    [
        ("finish", "finished", "finished"),
        ("stall", "stalled", "paused"),
        ("idle", "idle", "paused"),
        ("budget", "budget", "paused"),
        ("crash", "finished", "finished"),
    ],
)
def test_each_story_ends_as_it_must(
    scenario: str, verdict: str, state: str, tmp_path: Path
) -> None:
    """The right verdict, stop seen, one instance, books that match the bill, nothing left."""
    demo = start(scenario, tmp_path, "--json")
    out, _ = demo.communicate(timeout=TIMEOUT_S)
    told = (tmp_path / "err.txt").read_text()
    assert demo.returncode == 0, told
    document = json.loads(out)
    assert document["schema"] == "costguard.demo/1"
    assert (document["verdict"], document["job_state"]) == (verdict, state)
    assert document["stopped_seen"]
    assert (document["instances_made"], document["create_calls"]) == (1, 1)
    assert (document["instances_left"], document["broken_entries"]) == (0, 0)
    difference = float(document["spent_yuan"]) - float(document["platform_bill_yuan"])
    assert abs(difference) <= float(document["tolerance_yuan"]) * document["power_intervals"]
    assert document["loss_last"] < document["loss_first"]
    if verdict == "finished":
        assert document["loss_last"] < 0.8 * document["loss_first"]
        home = tmp_path / "costguard-demo" / scenario / f"kefu-{scenario}" / "adapter"
        assert (home / "adapter_model.safetensors").stat().st_size > 0
    assert left_of(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_story_leaves_nothing(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM in mid-training end the daemon, the platform and the instance."""
    demo = start("finish", tmp_path)
    assert demo.stdout is not None
    deadline = time.monotonic() + TIMEOUT_S
    for line in demo.stdout:
        if "loss" in line or time.monotonic() > deadline:
            break
    assert left_of(tmp_path), "something runs that can be left behind"
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == code
    assert left_of(tmp_path) == []
    assert list(tmp_path.glob(f"{MARK}*")) == []
