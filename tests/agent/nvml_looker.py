"""Looks at the cards as the agent does, in a process whose NVML is the stand-in.

For each line on standard input: one window, after the sampler has sampled at least twice more.
"""

from __future__ import annotations

import json
import sys
import time

from costguard.agent.gpu import GpuSampler

SAMPLE_S = 0.01


def main() -> None:
    """Answers until standard input ends."""
    sampler = GpuSampler(SAMPLE_S, lambda: time.monotonic_ns() // 1_000_000, reopen_s=0.05)
    sys.stdout.write(json.dumps(sampler.start(10)) + "\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(sampler.window()) + "\n")
        sys.stdout.flush()
    sampler.close()


if __name__ == "__main__":
    main()
