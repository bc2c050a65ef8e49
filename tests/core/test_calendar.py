from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from costguard.core.calendar import day_of, month_of

SHANGHAI = ZoneInfo("Asia/Shanghai")


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
