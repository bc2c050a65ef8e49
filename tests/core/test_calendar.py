from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from costguard.core.calendar import (
    Window,
    day_of,
    local_day,
    month_of,
    offset_ms,
    span_ms,
    zone_named,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("utc", "month", "day"),
    [
        ("2026-11-30T15:59:59+00:00", "2026-11", "2026-11-30"),
        ("2026-11-30T16:00:00+00:00", "2026-12", "2026-12-01"),
        ("2026-12-31T16:00:00+00:00", "2027-01", "2027-01-01"),
    ],
)
def test_a_month_begins_at_midnight_in_the_budgets_zone(utc: str, month: str, day: str) -> None:
    """Eight hours before UTC's own month does."""
    utc_ms = int(datetime.fromisoformat(utc).timestamp()) * 1_000
    assert month_of(utc_ms, SHANGHAI) == month
    assert day_of(utc_ms, SHANGHAI) == day


def test_another_zone_has_its_own_months() -> None:
    """The zone is the person's to set."""
    utc_ms = int(datetime.fromisoformat("2026-11-30T16:00:00+00:00").timestamp()) * 1_000
    assert month_of(utc_ms, ZoneInfo("UTC")) == "2026-11"


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    """On the days that have it; its end is not part of it."""
    night = Window(23 * 3_600, 7 * 3_600, weekdays=(4,))
    friday, saturday = date(2026, 11, 27), date(2026, 11, 28)
    span = span_ms(night, friday, SHANGHAI)
    begins = int(datetime.fromisoformat("2026-11-27T23:00:00+08:00").timestamp()) * 1_000
    assert span == (begins, begins + 8 * HOUR_MS)
    assert span_ms(night, saturday, SHANGHAI) is None


@pytest.mark.parametrize(
    ("window", "on"),
    [
        (Window(), True),
        (Window(weekdays=(2,)), True),
        (Window(weekdays=(0, 1)), False),
        (Window(dates=("2026-11-25",)), True),
        (Window(dates=("2026-11-26",)), False),
        (Window(weekdays=(0,), dates=("2026-11-25",)), True),
    ],
)
def test_a_window_is_on_its_weekdays_and_its_dates(window: Window, on: bool) -> None:
    """Either is enough; with neither it is on every day."""
    assert window.is_on(date(2026, 11, 25)) is on


def test_a_day_from_midnight_to_midnight_is_as_long_as_it_is() -> None:
    """23 hours when summer time begins, 25 when it ends."""
    berlin = zone_named("Europe/Berlin")
    for day, hours in ((date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 5, 1), 24)):
        span = span_ms(Window(), day, berlin)
        assert span is not None
        assert span[1] - span[0] == hours * HOUR_MS


def test_a_window_that_begins_and_ends_at_one_time_lasts_a_day() -> None:
    """As it would be read."""
    noon = Window(12 * 3_600, 12 * 3_600)
    span = span_ms(noon, date(2026, 11, 25), SHANGHAI)
    assert span is not None
    assert span[1] - span[0] == 24 * HOUR_MS


def test_an_instant_has_a_local_day_and_an_offset() -> None:
    """Exact to the millisecond, before 1970 too."""
    assert local_day(16 * HOUR_MS - 1, SHANGHAI) == date(1970, 1, 1)
    assert local_day(16 * HOUR_MS, SHANGHAI) == date(1970, 1, 2)
    assert offset_ms(0, SHANGHAI) == 8 * HOUR_MS
    assert offset_ms(-1, ZoneInfo("UTC")) == 0


@pytest.mark.parametrize("name", ["Asia/Shanghia", "", "../etc/passwd", "/etc/localtime"])
def test_a_zone_that_is_none_is_refused_by_name(name: str) -> None:
    """A spelling mistake must not become another clock."""
    with pytest.raises(ValueError, match="is no time zone"):
        zone_named(name)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"from_s": -1}, "within a day"),
        ({"from_s": 86_400}, "within a day"),
        ({"until_s": 86_401}, "within a day"),
        ({"until_s": -1}, "within a day"),
        ({"weekdays": (7,)}, "weekdays"),
        ({"weekdays": (-1,)}, "weekdays"),
        ({"dates": ("2026-02-30",)}, "day is out of range"),
    ],
)
def test_a_window_that_no_day_has_is_refused(wrong: dict[str, object], why: str) -> None:
    """It would never be in force, and nobody would know."""
    with pytest.raises(ValueError, match=why):
        Window(**wrong)  # type: ignore[arg-type]  # wrong on purpose
