"""Platform figures as our integers: micro-yuan, milliseconds. What is no figure is a ValueError.

Wire reads fractions as text, so that no price ever passes through a binary fraction.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from costguard.core.money import MICROS_PER_YUAN, YUAN_MAX

_FRACTION = re.compile(r"\.(\d+)")
HOURS_PER_MONTH = 730  # what platforms divide a month's disk price by, where they say


def decimal(value: Any) -> Decimal:
    """The finite number that `value` is or spells; a truth value or nothing is none."""
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        raise ValueError(f"{type(value).__name__} is no number")  # noqa: TRY004  (one kind to catch)
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError("not a number") from None
    if not number.is_finite():
        raise ValueError("not a finite number")
    return number


def micros(value: Any, yuan_per_unit_micros: int = MICROS_PER_YUAN) -> int:
    """Micro-yuan of an amount in the platform's unit, rounded up: never below what is owed."""
    amount = decimal(value) * yuan_per_unit_micros
    if abs(amount) > YUAN_MAX * MICROS_PER_YUAN:
        raise ValueError("an amount beyond all prices")
    return int(amount.to_integral_value(rounding=ROUND_CEILING))


def price_micros(value: Any, yuan_per_unit_micros: int = MICROS_PER_YUAN) -> int:
    """As `micros`, for a price: it cannot be negative."""
    price = micros(value, yuan_per_unit_micros)
    if price < 0:
        raise ValueError("a negative price")
    return price


def monthly_micros(price: Any, gigabytes: int, yuan_per_unit_micros: int = MICROS_PER_YUAN) -> int:
    """Millionths an hour of a disk that is priced per GB and month, exactly, rounded up."""
    exact = Fraction(decimal(price)) * gigabytes * yuan_per_unit_micros / HOURS_PER_MONTH
    return math.ceil(exact)


def milli_micros(value: Any) -> int:
    """Micro-yuan of an amount that a platform keeps in thousandths of a yuan."""
    return micros(value, MICROS_PER_YUAN // 1_000)


def ms_of_s(value: Any) -> int | None:
    """Unix seconds as UTC ms; None for nothing and for 0, which platforms write for "never"."""
    if value is None or value == "":
        return None
    return int(decimal(value) * 1_000) or None


def ms_of_rfc3339(value: Any) -> int | None:
    """A written time as UTC ms; None for nothing. One without a zone is UTC."""
    if value is None or value == "":
        return None
    # Go writes nine digits of a second; datetime takes three or six.
    text = _FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", str(value).replace("Z", "+00:00"))
    at = datetime.fromisoformat(text)
    at = at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)
    return int(at.timestamp()) * 1_000 + at.microsecond // 1_000


def rfc3339(at_ms: int) -> str:
    """UTC ms as platforms write a time, in whole seconds, never earlier than asked."""
    at = datetime.fromtimestamp(-(-at_ms // 1_000), tz=timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def months_between(since_ms: int, until_ms: int) -> list[str]:
    """Every UTC month from one time to another, as `2026-11`."""
    first = datetime.fromtimestamp(since_ms // 1_000, tz=timezone.utc)
    last = datetime.fromtimestamp(until_ms // 1_000, tz=timezone.utc)
    count = (last.year - first.year) * 12 + last.month - first.month
    steps = [first.month - 1 + step for step in range(count + 1)]
    return [f"{first.year + step // 12}-{step % 12 + 1:02d}" for step in steps]
