"""Which day, month or daily window an instant belongs to, in the zone that it is counted in.

A zone is named (`Asia/Shanghai`); its rules come from the time-zone database, which is as constant
as the calendar.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAY_S = 86_400
DAYS_KEPT = 4_096  # memo of window edges; a year of a few windows fits
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the local day, on every day or on some.

    `until_s` at or before `from_s` is of the next day: 23:00 to 07:00 belongs to the day on which
    it begins. Days count from Monday, 0; `dates` (such as `2026-10-01`) are days by name, for
    holidays. With neither, every day has it.
    """

    from_s: int = 0
    until_s: int = DAY_S
    weekdays: tuple[int, ...] = ()
    dates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no day has: a window that is silently never in force would be a trap."""
        if not (0 <= self.from_s < DAY_S and 0 <= self.until_s <= DAY_S):
            raise ValueError("a window lies within a day, from 0 to 86400 s")
        if not set(self.weekdays) <= set(range(7)):
            raise ValueError("weekdays count from 0, Monday, to 6")
        for text in self.dates:
            date.fromisoformat(text)

    def is_on(self, day: date) -> bool:
        """Whether the window begins on this day."""
        if not self.weekdays and not self.dates:
            return True
        return day.weekday() in self.weekdays or day.isoformat() in self.dates


def month_of(utc_ms: int, zone: ZoneInfo) -> str:
    """The calendar month, such as `2026-11`."""
    return _local(utc_ms, zone).strftime("%Y-%m")


def day_of(utc_ms: int, zone: ZoneInfo) -> str:
    """The calendar day, such as `2026-11-23`."""
    return _local(utc_ms, zone).strftime("%Y-%m-%d")


def zone_named(name: str) -> ZoneInfo:
    """The zone of this name; ValueError, with the name, where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{name!r} is no time zone, such as Asia/Shanghai") from error


def local_day(utc_ms: int, zone: ZoneInfo) -> date:
    """The calendar day as a date."""
    return _local(utc_ms, zone).date()


def offset_ms(utc_ms: int, zone: ZoneInfo) -> int:
    """How far the zone's clocks are ahead of UTC at this instant."""
    offset = _local(utc_ms, zone).utcoffset()
    assert offset is not None, "an instant in a zone has an offset"
    return offset // _MS


@lru_cache(maxsize=DAYS_KEPT)
def span_ms(window: Window, day: date, zone: ZoneInfo) -> tuple[int, int] | None:
    """The window of that day as instants, its end not included; None where that day has none.

    A window runs from the first time that the clock shows its beginning: on the night on which
    clocks are changed it is longer or shorter, as that night is.
    """
    if not window.is_on(day):
        return None
    until_s = window.until_s if window.until_s > window.from_s else window.until_s + DAY_S
    return at_ms(day, window.from_s, zone), at_ms(day, until_s, zone)


def at_ms(day: date, second: int, zone: ZoneInfo) -> int:
    """The instant at which that day's clock shows `second`; from 86400 on, the next day's."""
    naive = datetime(day.year, day.month, day.day) + timedelta(seconds=second)  # noqa: DTZ001  (its zone comes next)
    return (naive.replace(tzinfo=zone) - _EPOCH) // _MS


def _local(utc_ms: int, zone: ZoneInfo) -> datetime:
    return (_EPOCH + utc_ms * _MS).astimezone(zone)
