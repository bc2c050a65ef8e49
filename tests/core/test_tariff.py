from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from costguard.core.tariff import (
    Tariff,
    hold_micros,
    longest_ms,
    paid_until_ms,
    paused_micros,
    running_micros,
)

YUAN = 1_000_000
HOUR_MS = 3_600_000
TARIFFS = st.builds(
    Tariff,
    price_micros_per_hour=st.integers(1, 100 * YUAN),
    quantum_s=st.sampled_from([1, 7, 60, 3600]),
)


def test_the_articles_table_comes_out_to_the_fen() -> None:
    """1 + 1 + 2 + 1 hours of a 3090 at 15 yuan are 75 yuan, and 20 hours are 300."""
    tariff = Tariff(15 * YUAN)
    assert sum(running_micros(tariff, hours * HOUR_MS) for hours in (1, 1, 2, 1)) == 75 * YUAN
    assert running_micros(tariff, 20 * HOUR_MS) == 300 * YUAN


@pytest.mark.parametrize(
    ("quantum_s", "duration_ms", "seconds"),
    [
        (1, 0, 0),
        (1, 1, 1),
        (1, 1_000, 1),
        (1, 1_001, 2),
        (60, 1, 60),
        (60, 60_001, 120),
        (3600, 1, 3600),
        (3600, HOUR_MS, 3600),
        (3600, HOUR_MS + 1, 7200),
    ],
)
def test_a_quantum_begun_is_a_quantum_paid(quantum_s: int, duration_ms: int, seconds: int) -> None:
    """Each start rounds up to the billing quantum."""
    tariff = Tariff(3_600, quantum_s)  # one micro-yuan a second
    assert running_micros(tariff, duration_ms) == seconds


@given(TARIFFS, st.integers(0, 10_000 * YUAN))
def test_the_longest_run_is_affordable_and_one_quantum_more_is_not(
    tariff: Tariff, amount: int
) -> None:
    """`longest_ms` is the exact inverse of the price."""
    longest = longest_ms(tariff, amount)
    assert longest is not None
    assert running_micros(tariff, longest) <= amount
    assert running_micros(tariff, longest + 1) > amount


@given(TARIFFS, st.lists(st.integers(0, 20_000_000), min_size=1, max_size=8))
def test_metering_in_pieces_costs_what_the_whole_costs(tariff: Tariff, ends: list[int]) -> None:
    """Charges are differences of one cumulative price, so splitting cannot change the sum."""
    posted = 0
    for end in sorted(ends):
        posted += running_micros(tariff, end) - posted
    assert posted == running_micros(tariff, max(ends))


def test_a_free_instance_may_run_for_ever() -> None:
    """Without a price there is no longest run."""
    assert longest_ms(Tariff(0), 5) is None


def test_paid_until_is_the_end_of_the_begun_hour() -> None:
    """An hour begun is paid whole."""
    assert paid_until_ms(Tariff(YUAN, 3600), 1_000, 1_001) == 1_000 + HOUR_MS


def test_the_disk_is_held_for_as_long_as_it_is_to_be_kept() -> None:
    """F is the paused price times the keeping time, rounded up."""
    tariff = Tariff(15 * YUAN, 1, 36_000)
    assert hold_micros(tariff, 7 * 24 * HOUR_MS) == 7 * 24 * 36_000
    assert paused_micros(tariff, HOUR_MS // 2) == 18_000
