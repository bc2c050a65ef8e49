"""What the agent costs the machine it runs on: CPU, memory, telemetry, and how soon it tells.

`python -m tests.bench.agent_cost`. Where there is an NVIDIA card and torch, the training multiplies
matrices on it for half of the time, so that the figures are those of a real run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

from costguard.agent import procfs
from tests.agent.harness import Job, Reader, wait_until

RUN_S = float(os.environ.get("AGENT_COST_S", "60"))
STEPS_PER_S = 2
# As the daemon orders it.
TELEMETRY = {"sample_s": 1, "window_s": 5, "heartbeat_s": 1}
MIB = 1024 * 1024


def measure() -> None:
    """Print the agent's CPU share, memory, telemetry bytes an hour and event latency."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder) / "job")
        try:
            _measure(job)
        finally:
            job.end()


def _measure(job: Job) -> None:
    toy = {"steps": 10**9, "step_s": 1 / STEPS_PER_S, "burn_gpu": True}
    reader = job.begin(toy, telemetry=TELEMETRY)
    reader.wait_for("progress", 120, step=2)
    (agent,) = job.pids
    before, began, first = _cpu_s(agent), time.monotonic(), len(reader.messages)
    while time.monotonic() - began < RUN_S:
        reader.lease()
        time.sleep(1)
    elapsed_s = time.monotonic() - began
    share = (_cpu_s(agent) - before) / elapsed_s
    sent = sum(len(json.dumps(one)) + 1 for one in reader.messages[first:])
    memory = memory_mib(agent)
    nvml = reader.of("hello")[0]["nvml"]
    where = f"{nvml.get('cards', 0)} cards, driver {nvml.get('driver', 'none')}"
    text = ", ".join(f"{name} {value:.1f}" for name, value in memory.items())
    waits = event_latencies_s(reader, first)
    cuts = quantiles(waits, n=100, method="inclusive")
    guardian = reader.of("hello")[-1]["guardian"]
    beside = ", ".join(f"{name} {value:.1f}" for name, value in memory_mib(guardian).items())
    print(
        f"agent ({where}, {elapsed_s:.0f} s at {STEPS_PER_S} steps a second):"
        f" {share * 100:.2f} % of a core; MiB: {text}; its guardian's {beside}"
    )
    print(f"telemetry: {sent / elapsed_s * 3600 / 1e6:.2f} MB an hour")
    print(
        f"line logged -> at the reader ({len(waits)} steps): p50 {cuts[49] * 1000:.0f} ms,"
        f" p99 {cuts[98] * 1000:.0f} ms   (aim: under 500 ms)"
    )


def event_latencies_s(reader: Reader, first: int) -> list[float]:
    """From the trainer's writing of a line (it writes the time) to the reader's having it."""
    pairs = zip(reader.messages[first:], reader.received_ns[first:], strict=False)
    return [
        received / 1e9 - one["written_at"]
        for one, received in pairs
        if one["t"] == "progress" and isinstance(one.get("written_at"), float)
    ]


def memory_mib(pid: int) -> dict[str, float]:
    """RSS, PSS (shared pages by their share) and what is its own alone, as the kernel counts."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = {key: int(kib) / 1024 for key, kib in re.findall(r"(\w+): +(\d+) kB", text)}
    own = found["Private_Clean"] + found["Private_Dirty"]
    return {"RSS": found["Rss"], "PSS": found["Pss"], "own": own}


def _cpu_s(pid: int) -> float:
    process = procfs.find_process(pid)
    assert process is not None
    return process.cpu_s


def windows(seconds: float, burn: dict[str, Any]) -> list[dict[str, Any]]:
    """The `gpu` messages of a run of so many seconds with this toy, for a transcript."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder) / "job")
        try:
            reader = job.begin({"steps": 10**9, "step_s": 0.5, **burn}, telemetry=TELEMETRY)
            wait_until(lambda: len(reader.of("gpu")) >= seconds / 5, "windows", seconds + 60)
            return reader.of("gpu")
        finally:
            job.end()


if __name__ == "__main__":
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    measure()
    sys.exit(0)
