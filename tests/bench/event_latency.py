"""From a line that the trainer writes to the daemon's link having it.

`python -m tests.bench.event_latency`: through OpenSSH's own sshd on loopback, journalled and
fsynced on the way. What the daemon's pass then takes to store it is not in this figure.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from costguard.remote.link import boot_ms
from tests.remote.openssh import OpenSsh, sshd_path
from tests.remote.world import World, absolute

STEPS = 200
STEP_S = 0.2


def measure() -> None:
    """Print p50, p99 and the longest over some hundred steps."""
    if sshd_path() is None:
        print("event latency: OpenSSH's sshd is not installed, nothing was measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        server, world = OpenSsh(Path(folder) / "instance" / "home"), World(Path(folder))
        try:
            if reason := server.why_not():
                print(f"event latency: sshd cannot run here: {reason}")
                return
            server.start()
            waits_s = _waits_s(server, world)
            cuts = quantiles(waits_s, n=100, method="inclusive")
            print(
                f"line logged -> in the daemon's hands over SSH ({len(waits_s)} steps):"
                f" p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms,"
                f" longest {max(waits_s) * 1000:.0f} ms   (aim: under 500 ms, stored)"
            )
        finally:
            world.end()
            server.close()


def _waits_s(server: OpenSsh, world: World) -> list[float]:
    telemetry = {"sample_s": 1, "window_s": 5, "heartbeat_s": 1}
    toy = {"steps": STEPS, "step_s": STEP_S, "adapter": False}
    daemon = world.run(world.plan(server.target(), absolute(server), toy, telemetry=telemetry))
    deadline = time.monotonic() + 60 + 2 * STEPS * STEP_S
    while not daemon.of("exit") and time.monotonic() < deadline:
        time.sleep(0.5)
    offset_ms = time.time_ns() / 1e6 - boot_ms()
    return [
        (one["received_boot_ms"] + offset_ms) / 1000 - one["written_at"]
        for one in daemon.of("progress")
    ]


if __name__ == "__main__":
    measure()
    sys.exit(0)
