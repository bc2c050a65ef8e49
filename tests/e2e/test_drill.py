from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.house import ROOT, house

pytestmark = pytest.mark.e2e

SECOND_MICROS = -(-15_000_000 // 3_600)


def test_a_drill_proves_the_timer_of_a_real_platform_process() -> None:
    """Rented, stopped by its own timer, started again, stopped, given back; all of it booked."""
    with house() as home:
        config = "[providers.local]\npoll_interval_s = 0.2\nstop_latency_s = 3\n"
        (home.home / "config.toml").write_text(config)
        home.start_daemon()
        command = [sys.executable, "-m", "costguard", "doctor", "--provider", "local", "--drill"]
        done = subprocess.run(
            [*command, "--yes", "--json"],
            cwd=ROOT,
            env={**os.environ, "COSTGUARD_HOME": str(home.home), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert shown["timer_is_proven"]
        assert shown["given_back"]
        assert "at most" in done.stderr
        truth = home.truth()
        assert truth["requests"]["create"] == truth["requests"]["stop"] == 1, "ours, after its own"
        (job,) = home.ask("status")["jobs"]
        assert (job["state"], job["budget"]["spent_yuan"]) == ("released", shown["spent_yuan"])
        home.assert_books(2 * SECOND_MICROS)
