"""`python -m costguard.sim`: many seeds in many processes, with a log that grows as they end."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from costguard.sim.run import Summary, play_seeds

DAYS = {1: 7.0, 2: 1.0}


def main() -> int:
    """Play the seeds; 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m costguard.sim", description=__doc__)
    parser.add_argument("--tier", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--days", type=float, help="simulated days a seed; 7, on tier 2: 1")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--log", type=Path, help="one line a seed, and the document at the end")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the daemon's own log would be most of the output
    days = given.days or DAYS[given.tier]
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    summary = Summary(given.tier, given.first_seed, days)
    with (given.log or Path(os.devnull)).open("w", encoding="utf-8") as log:
        for result in play_seeds(seeds, given.tier, days, given.jobs):
            summary.add(result)
            faults = sum(result.faults.values())
            line = f"seed {result.seed} {result.mood}: {result.ticks} ticks, {faults} faults"
            log.write(f"{line}, trace {result.trace[:16]}\n")
            for violation in result.violations:
                log.write(f"  VIOLATION {violation}\n")
            log.flush()
        document = json.dumps(summary.document(), indent=2)
        log.write(document + "\n")
    sys.stdout.write(document + "\n")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
