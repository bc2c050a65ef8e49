"""What runs out by itself on a platform: the wallet, and the days that a stopped disk is kept."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

DAY_MS = 86_400_000
WARN_DAYS = (7, 3, 1)
_TENTH = Decimal("0.1")


def hours_left(balance_micros: int, micros_per_hour: int) -> Decimal | None:
    """The hours that a wallet still buys, to a tenth, rounded down; None where an hour is free."""
    if micros_per_hour <= 0:
        return None
    hours = Decimal(max(balance_micros, 0)) / micros_per_hour
    return hours.quantize(_TENTH, rounding=ROUND_FLOOR)


def warning_days(release_at_ms: int | None, now_ms: int, warned_days: int | None) -> int | None:
    """The warning that is due (7, 3 or 1 days before the disk is gone), once each; else None.

    `warned_days` is the last one given, None for none. Once the time is over nothing more can be
    warned of, and the answer is 0, once.
    """
    if release_at_ms is None:
        return None
    left_ms = release_at_ms - now_ms
    due = (
        0
        if left_ms <= 0
        else min((days for days in WARN_DAYS if left_ms <= days * DAY_MS), default=None)
    )
    if due is None or (warned_days is not None and due >= warned_days):
        return None
    return due
