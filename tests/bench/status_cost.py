"""`costguard status` with the daemon running and a job in training: the whole process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

from costguard.demo.stage import stage
from tests.bench.toy import submit, wait_for

RUNS = 21


def measure() -> None:
    """Print wall time and peak memory of `costguard status`, and of a bare interpreter."""
    with stage(None) as on:
        on.start_daemon()
        name = submit(on, "bench-status", steps=10_000, pause_s=0.1)
        wait_for(name, "training")
        script = Path(sys.executable).parent / "costguard"
        for text, command in (
            ("costguard status", [str(script), "status"]),
            ("bare python -c pass", [sys.executable, "-c", "pass"]),
        ):
            costs = [_cost(command) for _ in range(RUNS)]
            print(
                f"{text}: median {median(wall for wall, _ in costs):.3f} s,"
                f" peak {median(peak for _, peak in costs):.0f} MiB"
                "   (sky --version: 1.9 s, 157 MiB; dstack --version: 1.04 s, 101 MiB)"
            )


# A child's peak begins with what its parent held when it was forked, so a small parent measures.
MEASURE = """
import os, sys, time
began = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ,
    file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - began, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def _cost(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MiB of one run, by the kernel's own account of the process."""
    measured = subprocess.run(
        [sys.executable, "-I", "-S", "-c", MEASURE, *command],
        capture_output=True,
        text=True,
        check=True,
    )
    wall_s, peak, code = measured.stdout.split()
    if code != "0":
        raise RuntimeError(f"{command} ended with {code}: {measured.stderr}")
    scale = 1 if sys.platform == "darwin" else 1024
    return float(wall_s), int(peak) * scale / 2**20
