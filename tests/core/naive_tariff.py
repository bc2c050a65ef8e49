"""The price of running as a person would reckon it: quantum by quantum, with fractions.

Written from the rules alone, for tests to hold the real arithmetic against. It knows one zone,
UTC+8 without summer time.
"""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costguard.core.calendar import Window
    from costguard.core.tariff import Tariff

EAST_S = 8 * 3_600
DAY_S = 86_400


def naive_micros(tariff: Tariff, start_ms: int, end_ms: int) -> int:
    """What [start, end) costs."""
    total, charged, at, number = Fraction(0), 0, start_ms, 0
    while at < end_ms:
        if (number + 1) * tariff.quantum_s > tariff.free_s:
            total += Fraction(tariff.quantum_s, 3_600) * naive_price(tariff, at)
            charged += 1
        at, number = _next(tariff, at), number + 1
    if charged == 0:
        return 0
    least_s = max(tariff.minimum_s - tariff.free_s, 0)
    least = Fraction(least_s, 3_600) * naive_price(tariff, start_ms)
    return max(ceil(total), ceil(least), tariff.minimum_micros)


def naive_price(tariff: Tariff, at_ms: int) -> Fraction:
    """The price per hour in force at an instant."""
    price = tariff.price_micros_per_hour
    for change in tariff.changes:
        if change.at_ms <= at_ms:
            price = change.price_micros_per_hour
    shares = [one.per_mille for one in tariff.discounts if _applies(one.window, at_ms)]
    return Fraction(price) * Fraction(max(shares) if shares else 1_000, 1_000)


def _next(tariff: Tariff, at_ms: int) -> int:
    """When the quantum after the one that begins at `at_ms` begins."""
    if not tariff.by_clock:
        return at_ms + tariff.quantum_s * 1_000
    second = at_ms // 1_000 + 1
    while (second + EAST_S) % tariff.quantum_s:
        second += 1
    return second * 1_000


def _applies(window: Window, at_ms: int) -> bool:
    days, second = divmod(at_ms // 1_000 + EAST_S, DAY_S)
    today = date(1970, 1, 1) + timedelta(days=days)
    if window.from_s < window.until_s:
        return window.is_on(today) and window.from_s <= second < window.until_s
    yesterday = today - timedelta(days=1)
    return (window.is_on(today) and second >= window.from_s) or (
        window.is_on(yesterday) and second < window.until_s
    )
