"""`make bench`: print what was measured on this machine, medians and ratios, one line each."""

from __future__ import annotations

import os
import platform
import sys

from tests.bench import (
    agent_cost,
    big_ledger,
    daemon_memory,
    event_latency,
    forecast_error,
    forecast_sim,
    pull_speed,
    sim_speed,
    status_cost,
    stop_latency,
)

BENCHES = (
    stop_latency,
    status_cost,
    daemon_memory,
    agent_cost,
    event_latency,
    pull_speed,
    forecast_error,
    forecast_sim,
    big_ledger,
    sim_speed,
)


def main() -> int:
    """Run every benchmark in turn."""
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for bench in BENCHES:
        bench.measure()
    return 0


if __name__ == "__main__":
    sys.exit(main())
