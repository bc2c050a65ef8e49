"""From the training process's exit to the stop call accepted."""

from __future__ import annotations

from statistics import median, quantiles

from costguard.demo.stage import stage
from tests.bench.toy import FINAL, exit_and_stop_ms, submit, wait_for

RUNS = 25
ADAPTER_BYTES = 20_000_000


def measure() -> None:
    """Print median and p99 over runs with nothing left to pull, and with an adapter to pull."""
    with stage(None) as on:
        on.start_daemon()
        for text, size in (("nothing to pull", 0), ("20 MB adapter to pull", ADAPTER_BYTES)):
            waits_ms = []
            for run in range(RUNS):
                name = submit(on, f"bench-{size}-{run}", adapter_bytes=size)
                wait_for(name, *FINAL)
                ended_ms, stopped_ms = exit_and_stop_ms(on, name)
                waits_ms.append(stopped_ms - ended_ms)
            p99 = quantiles(waits_ms, n=100, method="inclusive")[98]
            print(
                f"exit -> stop accepted ({text}, {RUNS} runs): median {median(waits_ms) / 1000:.3f}"
                f" s, p99 {p99 / 1000:.3f} s, max {max(waits_ms) / 1000:.3f} s"
                "   (SkyPilot managed jobs poll every 15 s; dstack: about 5 min)"
            )
