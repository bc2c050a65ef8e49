from __future__ import annotations

import pytest

from costguard.report.amounts import billed_s
from costguard.report.figures import hours_text, time_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.000000"),
        (1, "0.000278"),
        (3_600, "1.000000"),
        (18_000, "5.000000"),
        (-1_800, "-0.500000"),
    ],
)
def test_hours_are_decimal_text(seconds: int, text: str) -> None:
    """A second must not vanish."""
    assert hours_text(seconds) == text


def test_times_are_rfc_3339_in_utc() -> None:
    """With milliseconds; nothing stays nothing."""
    assert time_text(1_795_536_000_007) == "2026-11-24T16:00:00.007Z"
    assert time_text(None) is None


@pytest.mark.parametrize(
    ("amount", "price", "seconds"),
    [
        (15_000_000, 15_000_000, 3_600),
        (4_167, 15_000_000, 1),
        (4_166, 15_000_000, 1),
        (-4_167, 15_000_000, -1),
        (0, 15_000_000, 0),
        (7, 0, 0),
    ],
)
def test_an_amount_is_so_many_seconds_at_its_price(amount: int, price: int, seconds: int) -> None:
    """Rounded to the second, as every quantum is whole seconds."""
    assert billed_s(amount, price) == seconds
