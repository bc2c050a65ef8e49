from __future__ import annotations

from decimal import Decimal

import pytest

from costguard.providers.units import (
    decimal,
    micros,
    milli_micros,
    monthly_micros,
    months_between,
    ms_of_rfc3339,
    ms_of_s,
    price_micros,
    rfc3339,
)

NOV_4_MS = 1_793_750_400_000


def test_amounts_are_rounded_up_to_the_micro() -> None:
    """Never below what is owed."""
    assert micros("0.1") == 100_000
    assert micros("0.0000001") == 1
    assert micros(Decimal(2), 7_300_000) == 14_600_000
    assert micros("-3.5") == -3_500_000
    assert milli_micros(15_500) == 15_500_000


@pytest.mark.parametrize("value", [None, True, "", "a lot", "nan", "inf", 0.5, [], "1e30"])
def test_what_is_no_amount_is_a_value_error(value: object) -> None:
    """A binary fraction is none either: it has lost what it was."""
    with pytest.raises(ValueError):
        micros(value)


def test_a_price_cannot_be_negative() -> None:
    """A balance can."""
    with pytest.raises(ValueError):
        price_micros("-1")


def test_a_disks_month_is_divided_exactly() -> None:
    """0.08 dollars, 100 GB, 7.3 yuan a dollar: 0.08 yuan an hour, and not a micro more."""
    assert monthly_micros("0.08", 100, 7_300_000) == 80_000
    assert monthly_micros("0.10", 1, 7_000_000) == 959  # 958.9


def test_times_are_read_as_platforms_write_them() -> None:
    """0 and nothing mean never; without a zone it is UTC."""
    assert ms_of_s(1_793_750_400) == NOV_4_MS
    assert ms_of_s("1793750400.5") == NOV_4_MS + 500
    assert [ms_of_s(nothing) for nothing in (0, None, "")] == [None, None, None]
    assert ms_of_rfc3339("2026-11-04T00:00:00Z") == NOV_4_MS
    assert ms_of_rfc3339("2026-11-04T08:00:00+08:00") == NOV_4_MS
    assert ms_of_rfc3339("2026-11-04T00:00:00.25") == NOV_4_MS + 250
    assert ms_of_rfc3339("2026-11-04T08:00:00.123456789+08:00") == NOV_4_MS + 123
    assert ms_of_rfc3339(None) is None
    with pytest.raises(ValueError):
        ms_of_rfc3339("tonight")


def test_times_are_written_in_whole_seconds_never_earlier() -> None:
    """A window that ends too early would miss a charge."""
    assert rfc3339(NOV_4_MS) == "2026-11-04T00:00:00Z"
    assert rfc3339(NOV_4_MS + 1) == "2026-11-04T00:00:01Z"


def test_months_run_over_the_end_of_a_year() -> None:
    """Both ends counted."""
    day_ms = 86_400_000
    assert months_between(NOV_4_MS, NOV_4_MS + 100 * day_ms) == [
        "2026-11",
        "2026-12",
        "2027-01",
        "2027-02",
    ]
    assert months_between(NOV_4_MS, NOV_4_MS) == ["2026-11"]


def test_a_decimal_is_taken_as_it_is() -> None:
    """And a whole number too."""
    assert decimal(3) == Decimal(3)
    assert decimal("0.35") == Decimal("0.35")
