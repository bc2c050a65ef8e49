"""Time as the core sees it: a wall clock, a clock that runs through suspend, and its boot."""

from __future__ import annotations

from dataclasses import dataclass

MS_PER_S = 1_000
MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant, read from two clocks at once.

    The wall clock can be set back by NTP or a person; the boot-time clock cannot, but starts anew
    with each boot. Money takes whichever says that more time has passed.
    """

    utc_ms: int
    boot_ms: int
    boot_id: str

    def plus_ms(self, ms: int) -> Moment:
        """The instant `ms` later on both clocks."""
        return Moment(self.utc_ms + ms, self.boot_ms + ms, self.boot_id)


def elapsed_ms(since: Moment, now: Moment) -> int:
    """Milliseconds from `since` to `now`, the larger of what the two clocks say, never negative."""
    wall = now.utc_ms - since.utc_ms
    if since.boot_id != now.boot_id:
        return max(wall, 0)
    return max(wall, now.boot_ms - since.boot_ms, 0)


def has_passed(deadline: Moment, now: Moment) -> bool:
    """Whether `deadline` lies behind `now` by either clock: the stricter reading for money."""
    if now.utc_ms >= deadline.utc_ms:
        return True
    return deadline.boot_id == now.boot_id and now.boot_ms >= deadline.boot_ms


def ms_until(deadline: Moment, now: Moment) -> int:
    """Milliseconds left until `deadline` by the clock that runs out first; 0 once it has passed."""
    left = deadline.utc_ms - now.utc_ms
    if deadline.boot_id == now.boot_id:
        left = min(left, deadline.boot_ms - now.boot_ms)
    return max(left, 0)
