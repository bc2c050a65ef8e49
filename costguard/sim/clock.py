"""A clock that stands still until it is moved, with a wall that can be set wrong."""

from __future__ import annotations

from costguard.core.meter import CLOCKS_AGREE_MS
from costguard.core.moment import Moment

NOVEMBER_MS = 1_793_750_400_000  # 2026-11-04 00:00 UTC, far from a month's end
UPTIME_MS = 1_000_000
NEVER_MS = 1 << 60  # later than anything


class SimClock:
    """Implements the daemon's Clock. `true_ms` is what really passes: the platform lives by it."""

    def __init__(self, true_ms: int = NOVEMBER_MS) -> None:
        self.true_ms = true_ms
        self.wall_error_ms = 0
        self.forward_ms = 0  # how far the wall clock was set forward, in all
        self._was_set = False
        self.settings = 0  # how often either clock did anything but run on
        self._boots = 1
        self._booted_ms = true_ms - UPTIME_MS
        self._now: Moment | None = None

    def now(self) -> Moment:
        """Both clocks as the daemon's machine shows them."""
        if self._now is None:
            true_ms = self.true_ms
            boot = f"boot-{self._boots}"
            self._now = Moment(true_ms + self.wall_error_ms, true_ms - self._booted_ms, boot)
        return self._now

    @property
    def small_error_ms(self) -> int:
        """How wrong the wall clock is, where that is too little to be told from an answer's way."""
        return self.wall_error_ms if abs(self.wall_error_ms) < CLOCKS_AGREE_MS else 0

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.true_ms += ms
        self._now = None

    def set_wall(self, by_ms: int) -> None:
        """Somebody, or NTP, sets the wall clock by so much; the boot clock does not notice."""
        self.wall_error_ms += by_ms
        self.forward_ms += max(by_ms, 0)
        self._was_set = self._was_set or by_ms != 0
        self.settings += 1
        self._now = None

    @property
    def was_set(self) -> bool:
        """Whether anybody ever set the wall clock."""
        return self._was_set

    def boot_anew(self) -> None:
        """The daemon's machine has just booted anew."""
        self._booted_ms = self.true_ms
        self._boots += 1
        self.settings += 1
        self._now = None
