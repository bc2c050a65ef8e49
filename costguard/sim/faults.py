"""Chance: which troubles a seed has, how often, and how many of each really came."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

MS_PER_HOUR = 3_600_000

# kind: (rate of a mild seed, rate of a brutal one). "call" rates are chances for each call or
# thing, "hour" rates are how often in an hour. Ranges in the manner of TigerBeetle's VOPR.
PER_CALL: dict[str, tuple[float, float]] = {
    "timeout_before": (0.01, 0.3),
    "timeout_after": (0.01, 0.3),
    "server_error": (0.01, 0.2),
    "too_many_requests": (0.01, 0.2),
    "stale_read": (0.05, 0.5),
    "unknown_power": (0.02, 0.3),
    "not_listed_yet": (0.2, 0.8),
    "twin": (0.1, 0.5),
    "stop_ignored": (0.1, 0.7),
    "stop_refused": (0.1, 0.7),
    "off_billing": (0.1, 0.4),
    "no_capacity": (0.2, 0.7),
    "timer_not_kept": (0.05, 0.5),
    "timer_never": (0.1, 0.5),
    "timer_late": (0.1, 0.5),
    "guest_stop_fails": (0.1, 0.5),
    "wrong_bill": (0.1, 0.5),
    "late_bill": (0.1, 0.5),
    "notice_lost": (0.1, 0.9),
    "kill": (0.0003, 0.01),
}
PER_HOUR: dict[str, tuple[float, float]] = {
    "price_change": (0.05, 0.5),
    "line_lost": (0.1, 3.0),
    "line_hangs": (0.1, 1.0),
    "telemetry_gap": (0.1, 2.0),
    "telemetry_nan": (0.1, 4.0),
    "telemetry_frozen": (0.05, 0.5),
    "suspend": (0.01, 0.04),
    "clock_jump": (0.01, 0.2),
    "disk_full": (0.02, 0.2),
    "database_locked": (0.02, 0.4),
    "new_boot": (0.01, 0.1),
}
# What no documented figure of a platform allows: judged as a class of its own.
BEYOND: dict[str, tuple[float, float]] = {"stale_beyond": (0.01, 0.1)}

BEYOND_SHARE = 0.05
MOODS = (("calm", 0.15), ("mild", 0.55), ("brutal", 0.3))
KIND_SHARE = {"calm": 0.0, "mild": 0.25, "brutal": 0.55}


class Faults:
    """The troubles of one seed. Heals once, for good."""

    def __init__(
        self, rng: Random, *, calm: bool = False, focus: Mapping[str, float] | None = None
    ) -> None:
        self._rng = rng
        self.counts: Counter[str] = Counter()
        self.healed = False
        self.mood = "calm" if calm else _drawn(rng)
        self.rates: dict[str, float] = {}
        share = KIND_SHARE[self.mood]
        for kind, (low, high) in {**PER_CALL, **PER_HOUR}.items():
            if rng.random() < share:
                top = high if self.mood == "brutal" else (low * high) ** 0.5
                self.rates[kind] = low * (top / low) ** rng.random()
        self.is_beyond = self.mood != "calm" and rng.random() < BEYOND_SHARE
        if self.is_beyond:
            for kind, (low, high) in BEYOND.items():
                self.rates[kind] = rng.uniform(low, high)
        if focus:
            self.mood = "mild" if self.mood == "calm" else self.mood
            self.rates.update(focus)

    def hits(self, kind: str) -> bool:
        """Whether this trouble comes now, at this call or to this thing."""
        rate = self.rates.get(kind)
        if rate is None or self.healed or self._rng.random() >= rate:
            return False
        self.counts[kind] += 1
        return True

    def comes(self, kind: str, within_ms: int) -> bool:
        """Whether this trouble came at some time of the last `within_ms`."""
        rate = self.rates.get(kind)
        if rate is None or self.healed or self._rng.random() >= rate * within_ms / MS_PER_HOUR:
            return False
        self.counts[kind] += 1
        return True

    def between(self, low: int, high: int) -> int:
        """A whole number that this seed draws."""
        return self._rng.randint(low, high)


def _drawn(rng: Random) -> str:
    point = rng.random()
    for mood, share in MOODS:
        if point < share:
            return mood
        point -= share
    return MOODS[-1][0]
