"""`make bench`: print what was measured on this machine, medians and ratios, one line each."""

from __future__ import annotations

import os
import platform
import sys

from tests.bench import daemon_memory, sim_speed, status_cost, stop_latency


def main() -> int:
    """Run every benchmark in turn."""
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for bench in (stop_latency, status_cost, daemon_memory, sim_speed):
        bench.measure()
    return 0


if __name__ == "__main__":
    sys.exit(main())
