"""How figures look in JSON: money as yuan text, hours as decimal text, times as RFC 3339 UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import ROUND_HALF_UP, Decimal

S_PER_HOUR = 3_600


def time_text(utc_ms: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds; None stays None."""
    if utc_ms is None:
        return None
    moment = datetime.fromtimestamp(utc_ms / 1000, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def hours_text(seconds: int) -> str:
    """Hours with six decimals: a second is 0.000278 h and must not vanish."""
    hours = Decimal(seconds) / S_PER_HOUR
    return str(hours.quantize(Decimal("0.000001"), rounding=ROUND_HALF_UP))
