"""Which calendar month and day an instant belongs to, in the zone that budgets are counted in."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


def month_of(utc_ms: int, zone: ZoneInfo) -> str:
    """The calendar month, such as `2026-11`."""
    return _local(utc_ms, zone).strftime("%Y-%m")


def day_of(utc_ms: int, zone: ZoneInfo) -> str:
    """The calendar day, such as `2026-11-23`."""
    return _local(utc_ms, zone).strftime("%Y-%m-%d")


def _local(utc_ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(utc_ms / 1000, tz=timezone.utc).astimezone(zone)
