from __future__ import annotations

from decimal import Decimal

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
    ("micros", "text"),
    [(0, "0.00"), (350_000, "0.35"), (75_000_000, "75.00"), (1, "0.000001"), (-1_500_000, "-1.50")],
)
def test_money_in_json_is_exact(micros: int, text: str) -> None:
    """Two decimals, and more only where they are something."""
    assert yuan_text(micros) == text


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


@pytest.mark.parametrize("text", ["0,35", "1,5", "12,34", "1,2,3", "1,0000", ",5", "1234,567"])
def test_a_comma_that_groups_no_thousands_is_refused(text: str) -> None:
    """Read as nothing at all, 0,35 would be a hundredfold."""
    with pytest.raises(MoneyError, match="not an amount"):
        parse_yuan(text)


@pytest.mark.parametrize(
    "text", ["80." + "0" * 40 + "1", "0." + "9" * 40, "1E-999999999", "0.1234567"]
)
def test_no_digit_is_rounded_away(text: str) -> None:
    """Nor those beyond the 28 that Decimal reckons with."""
    with pytest.raises(MoneyError, match="six decimals"):
        parse_yuan(text)


def test_zeros_behind_the_sixth_decimal_change_nothing() -> None:
    """The amount is what counts, not how it is written."""
    assert parse_yuan("80." + "0" * 40) == 80_000_000


@pytest.mark.parametrize(
    ("text", "why"),
    [("-5", "negative"), ("abc", "abc"), ("1e9", "check the figure"), ("inf", "finite")],
)
def test_a_refusal_says_why(text: str, why: str) -> None:
    """A person can put it right."""
    with pytest.raises(MoneyError, match=why):
        parse_yuan(text)


def test_the_largest_amount_is_taken_and_a_micro_more_is_not() -> None:
    """Both sides of the limit."""
    assert parse_yuan("10000000") == 10**13
    with pytest.raises(MoneyError):
        parse_yuan("10000000.000001")


@given(st.integers(-(10**13), 10**13))
def test_money_text_has_two_to_six_decimals(micros: int) -> None:
    """And is exact."""
    text = yuan_text(micros)
    assert 2 <= len(text.rpartition(".")[2]) <= 6
    assert Decimal(text) * 1_000_000 == micros


def test_a_terminal_without_the_sign_shows_the_word() -> None:
    """元 stands behind the figure."""
    assert yuan_screen(-75_005_000, "元") == "-75.01元"


def test_half_a_fen_is_rounded_up() -> None:
    """And a hair less is not."""
    assert (yuan_screen(75_005_000), yuan_screen(75_004_999)) == ("¥75.01", "¥75.00")
