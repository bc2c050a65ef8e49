from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from costguard.core.money import MoneyError, ceil_div, parse_yuan, yuan_screen, yuan_text


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("80", 80_000_000),
        ("0.35", 350_000),
        ("¥1,200.50", 1_200_500_000),
        ("15元", 15_000_000),
        (0, 0),
    ],
)
def test_amounts_are_read_exactly(text: object, micros: int) -> None:
    """What a person writes is taken to the micro-yuan."""
    assert parse_yuan(text) == micros


@pytest.mark.parametrize(
    "text", ["-5", "abc", "", "inf", "nan", "1e9", "0.0000001", None, True, "1 2"]
)
def test_what_is_no_amount_is_refused(text: object) -> None:
    """A silent zero or a rounded amount would be a surprise with money in it."""
    with pytest.raises(MoneyError):
        parse_yuan(text)


@given(st.integers(min_value=0, max_value=10**13))
def test_text_and_amount_are_inverse(micros: int) -> None:
    """JSON carries every micro-yuan there and back."""
    assert parse_yuan(yuan_text(micros)) == micros


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (75_000_000, "¥75.00"),
        (1_234_567_890, "¥1,234.57"),
        (4_167, "¥0.0042"),
        (0, "¥0.00"),
        (-5_000_000, "-¥5.00"),
    ],
)
def test_screen_amounts_round_to_the_fen(micros: int, shown: str) -> None:
    """Under a fen four decimals are kept, so that a short run does not look free."""
    assert yuan_screen(micros) == shown


def test_division_rounds_up() -> None:
    """What is owed is never rounded in our favour."""
    assert [ceil_div(n, 3) for n in (0, 1, 3, 4)] == [0, 1, 1, 2]
