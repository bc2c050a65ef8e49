from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from costguard.sim.run import play_seed

FULL = bool(os.environ.get("COSTGUARD_TEST_FULL"))
SEEDS = 1_000 if FULL else 50
CHUNK = 5
HASH = "from costguard.sim.run import play_seed; print(play_seed({seed}, {tier}, {days}).trace)"


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_real_daemon_survives_its_nights(first: int) -> None:
    """Tier 2: 24 simulated hours a seed, every tick judged by the platform's own figures."""
    found = [play_seed(seed, 2, 1.0).violations for seed in range(first, first + CHUNK)]
    assert not any(found), [violation for one in found for violation in one]


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_replays_exactly_in_another_process(hash_seed: str) -> None:
    """Whatever the interpreter's hash seed is: the same calls, entries and words at each time."""
    code = HASH.format(seed=12, tier=2, days=0.2)
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == play_seed(12, 2, 0.2).trace


def test_the_command_gives_the_document_of_the_contract() -> None:
    """`costguard simulate --json`: one document, exit code 0 without a violation."""
    command = ["simulate", "--seeds", "1", "--first-seed", "12", "--tier", "2", "--days", "0.1"]
    told = subprocess.run(
        [sys.executable, "-m", "costguard", *command, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(told.stdout)
    promised = {
        "schema",
        "seeds",
        "first_seed",
        "tier",
        "simulated_days",
        "faults_injected",
        "violations",
        "overspend_yuan_max",
        "orphans",
        "false_stops",
        "wrong_pauses",
        "cap_used_percent_median",
    }
    assert promised <= document.keys()
    assert document["violations"] == []
