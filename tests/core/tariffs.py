"""Tariffs of every kind, for property tests: small enough to be reckoned quantum by quantum."""

from __future__ import annotations

from hypothesis import strategies as st

from costguard.core.calendar import Window
from costguard.core.tariff import Discount, PriceChange, Tariff

YUAN = 1_000_000
HOUR_MS = 3_600_000
MIDNIGHT_MS = 1_795_536_000_000  # 2026-11-25, a Wednesday, begins in Shanghai
DATES = ("2026-11-24", "2026-11-25", "2026-11-26", "2026-11-27")

STARTS = st.integers(MIDNIGHT_MS - 24 * HOUR_MS, MIDNIGHT_MS + 48 * HOUR_MS)
WINDOWS = st.builds(
    Window,
    from_s=st.integers(0, 86_399),
    until_s=st.integers(0, 86_400),
    weekdays=st.lists(st.integers(0, 6), max_size=2, unique=True).map(tuple),
    dates=st.lists(st.sampled_from(DATES), max_size=2, unique=True).map(tuple),
)
DISCOUNTS = st.lists(st.builds(Discount, st.integers(0, 1_500), WINDOWS), max_size=2).map(tuple)
CHANGES = st.lists(
    st.builds(PriceChange, STARTS, st.integers(0, 40 * YUAN)),
    max_size=3,
    unique_by=lambda change: change.at_ms,
).map(lambda found: tuple(sorted(found, key=lambda change: change.at_ms)))


def tariffs(*quanta_s: int) -> st.SearchStrategy[Tariff]:
    """Tariffs with one of these quanta, each rule there or not."""
    return st.builds(
        Tariff,
        price_micros_per_hour=st.integers(0, 40 * YUAN),
        quantum_s=st.sampled_from(quanta_s),
        by_clock=st.booleans(),
        minimum_s=st.sampled_from([0, 60, 7_200]),
        minimum_micros=st.sampled_from([0, 10_000]),
        free_s=st.sampled_from([0, 59, 3_600, 5_400]),
        discounts=DISCOUNTS,
        changes=CHANGES,
    )


# Each with how long an interval may be, so that the reckoning by hand stays short.
BY_SECOND = st.tuples(tariffs(1), STARTS, st.integers(0, HOUR_MS // 4))
BY_MINUTE = st.tuples(tariffs(60, 900), STARTS, st.integers(0, 24 * HOUR_MS))
BY_HOUR = st.tuples(tariffs(3_600), STARTS, st.integers(0, 96 * HOUR_MS))
CASES = BY_SECOND | BY_MINUTE | BY_HOUR
