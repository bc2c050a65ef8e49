"""The two clocks of the agent: one that only goes forward, and the time of day."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What the supervisor asks for the time; tests pass one that they move by hand."""

    def boot_ms(self) -> int:
        """Milliseconds that only grow, counting the time the machine was suspended."""

    def utc_ms(self) -> int:
        """Milliseconds since 1970 in UTC, as far as this machine knows; may jump."""


class SystemClock:
    """The machine's own clocks.

    Leases are counted on CLOCK_BOOTTIME, because it runs through suspend and ignores NTP; where
    the platform has none (macOS), on the monotonic clock.
    """

    def boot_ms(self) -> int:
        """Milliseconds since the machine booted."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        if boottime is None:
            return time.monotonic_ns() // 1_000_000
        return time.clock_gettime_ns(boottime) // 1_000_000

    def utc_ms(self) -> int:
        """Milliseconds since 1970 in UTC."""
        return time.time_ns() // 1_000_000


def boot_id() -> str | None:
    """Name of the current boot, or None where the kernel offers none.

    In a container this is the host's boot: a restarted container keeps it, so a process is
    recognised by its pid *and* start time, never by the boot alone.
    """
    try:
        return BOOT_ID_PATH.read_text(encoding="ascii").strip()
    except OSError:
        return None
