"""The daemon's memory with one job running."""

from __future__ import annotations

import subprocess
import time

from costguard.demo.stage import stage
from tests.bench.toy import submit, wait_for

SETTLE_S = 15.0


def measure() -> None:
    """Print the daemon's resident memory in mid-training."""
    with stage(None) as on:
        pid = on.start_daemon()
        name = submit(on, "bench-memory", steps=10_000, pause_s=0.1)
        wait_for(name, "training")
        time.sleep(SETTLE_S)
        asked = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True
        )
        print(
            f"daemon, one job running: {int(asked.stdout) / 1024:.0f} MiB resident"
            "   (idle dstack server: 248 MiB; SkyPilot API server: 345 MiB)"
        )
