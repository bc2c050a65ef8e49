"""Quiet hours, on the clock on a person's wall."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

DAY_MINUTES = 24 * 60
MORNING_MINUTES = 4 * 60


def local(now_ms: int, zone: ZoneInfo) -> datetime:
    """The wall's date and time."""
    return datetime.fromtimestamp(now_ms / 1_000, tz=zone)


def minute_of_day(now_ms: int, zone: ZoneInfo) -> int:
    """How many minutes the wall's clock is past midnight."""
    at = local(now_ms, zone)
    return at.hour * 60 + at.minute


def is_quiet(now_ms: int, zone: ZoneInfo, span: tuple[int, int] | None) -> bool:
    """Whether `now_ms` lies in the span of minutes of the day, which may go past midnight."""
    if span is None:
        return False
    start, end = span
    return (minute_of_day(now_ms, zone) - start) % DAY_MINUTES < (end - start) % DAY_MINUTES


def morning_of(now_ms: int, zone: ZoneInfo, minute: int) -> tuple[str, int] | None:
    """The date and the instant (UTC ms) of today's summary, while it is time for it.

    A machine that woke up later still says good morning; one that was started at noon does not.
    """
    if not 0 <= minute_of_day(now_ms, zone) - minute < MORNING_MINUTES:
        return None
    midnight = local(now_ms, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    due = midnight + timedelta(minutes=minute)
    return midnight.date().isoformat(), int(due.timestamp() * 1_000)
