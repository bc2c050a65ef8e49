"""What a real agent tells of a real NVIDIA card: `python -m tests.agent.real_card >transcript`.

Needs a card, and torch for the load. Transcripts of runs are kept in `evidence/` beside this file.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.agent.harness import Job, wait_until

# As the daemon orders it.
TELEMETRY = {"sample_s": 1, "window_s": 5, "heartbeat_s": 1}
IDLE_WINDOWS, LOAD_WINDOWS = 3, 9
SMI = (
    *("nvidia-smi", "--format=csv"),
    "--query-gpu=index,name,driver_version,utilization.gpu,memory.used,power.draw,temperature.gpu",
)


def say(text: str) -> None:
    """Prints one line of the transcript."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def smi(when: str) -> None:
    """What NVIDIA's own tool says at the same time."""
    if shutil.which(SMI[0]):
        done = subprocess.run(SMI, capture_output=True, text=True, check=False)
        say(f"nvidia-smi {when}: {' | '.join(done.stdout.strip().splitlines()[1:])}")


def show(directory: Path, title: str, count: int, *, burn: bool) -> None:
    """The windows of one training, idle or multiplying matrices, and what the agent costs."""
    job = Job(directory)
    try:
        toy = {"steps": 10**9, "step_s": 0.5, "burn_gpu": burn}
        reader = job.begin(toy, telemetry=TELEMETRY)
        reader.lease(600_000)
        (agent,) = job.pids
        say(f"--- {title}")
        say(f"hello nvml: {json.dumps(reader.wait_for('hello')['nvml'])}")
        used, began = cpu_s(agent), time.monotonic()
        wait_until(lambda: len(reader.of("gpu")) >= count, "windows", 5 * count + 60)
        share = (cpu_s(agent) - used) / (time.monotonic() - began)
        smi(title)
        for window in reader.of("gpu"):
            told = {key: window[key] for key in ("window_s", "nvml", "cards", "job")}
            say(json.dumps(told))
        say(f"agent: {share * 100:.2f} % of a core over {time.monotonic() - began:.0f} s")
        memory(agent)
    finally:
        job.end()


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> None:
    """RSS, and the mappings that make it up."""
    resident: Counter[str] = Counter()
    own: Counter[str] = Counter()
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)", line)
        if head:
            name = Path(head.group(1)).name or "(anonymous)"
        figure = re.match(r"(Rss|Private_Clean|Private_Dirty): +(\d+) kB", line)
        if figure:
            which = resident if figure.group(1) == "Rss" else own
            which[name] += int(figure.group(2))
    total, mine = sum(resident.values()) / 1024, sum(own.values()) / 1024
    say(f"agent memory: RSS {total:.1f} MiB, of which {mine:.1f} MiB belong to it alone")
    for name, kib in resident.most_common(6):
        say(f"  {name}: RSS {kib / 1024:.1f} MiB, its own {own[name] / 1024:.1f} MiB")


def first_contact(directory: Path) -> None:
    """The table of first contact, as the agent's own command prints it."""
    job = Job(directory)
    needs = {"bf16": True, "vram_mib": 18_000, "model_mib": 15_000, "checkpoints_mib": 2_000}
    versions = {"torch": "2.6", "transformers": "4.56", "peft": "0.15", "bitsandbytes": "0.49"}
    asked = {
        "needs": {**needs, "versions": versions, "data": ["."]},
        "utc_ms": time.time_ns() // 1_000_000,
    }
    done = subprocess.run(
        [sys.executable, str(job.agent_path), "contact", f"--dir={directory}"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    say("--- first contact")
    say("\n".join(json.loads(done.stdout)["lines"]) if done.stdout else done.stderr)


def main() -> int:
    """Prints the whole transcript."""
    say(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        first_contact(Path(folder) / "contact")
        show(Path(folder) / "idle", "no load", IDLE_WINDOWS, burn=False)
        show(Path(folder) / "load", "torch matmul, 10 s on, 10 s off", LOAD_WINDOWS, burn=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
