"""The only place that reads the machine's clocks for the daemon."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from costguard.core.moment import Moment

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What the daemon asks for the time; the simulator brings its own."""

    def now(self) -> Moment:
        """The present instant on both clocks."""
        ...


class SystemClock:
    """The machine's clocks: UTC, and the one that runs through suspend."""

    def __init__(self) -> None:
        # macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC keeps counting in sleep.
        self._boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        self._boot_id = _boot_id()

    def now(self) -> Moment:
        """The present instant on both clocks."""
        boot_ms = time.clock_gettime_ns(self._boot_clock) // 1_000_000
        return Moment(time.time_ns() // 1_000_000, boot_ms, self._boot_id)


def _boot_id() -> str:
    """What tells this boot from another; on a system that gives none, each start is a new boot."""
    with contextlib.suppress(OSError):
        return BOOT_ID_FILE.read_text(encoding="ascii").strip()
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            return asked.stdout.strip()
    return f"start-{time.time_ns()}"
