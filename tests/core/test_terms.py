from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.calendar import Window
from costguard.core.meter import MeterStep
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Discount, Tariff
from costguard.core.terms import change_at_ms, dearest_least, opening_tariff, terms_of
from tests.core.meters import OPEN, at, off, on

HOUR_S = 3_600
HOUR_MS = 3_600_000
NIGHT = Discount(500, Window(0, 8 * HOUR_S))
NIGHTLY = Tariff(3_600, zone="UTC", discounts=(NIGHT,))


def test_an_interval_opens_under_the_dearer_of_two_terms() -> None:
    """A fall came with the read that told of it, a rise was there when rent began."""
    dear, cheap = Tariff(7_200, 1), Tariff(3_600, 1)
    assert opening_tariff(dear, cheap, 1_000) is dear
    assert opening_tariff(cheap, dear, 1_000) is dear


def test_a_rise_came_right_after_the_last_look_and_a_fall_only_now() -> None:
    """The worst of what is possible between two reads."""
    dearer, cheaper = Tariff(7_200), Tariff(1_800)
    assert change_at_ms(OPEN, dearer, None, at(9_000)) == OPEN.seen_to_ms
    assert change_at_ms(OPEN, cheaper, None, at(9_000)) == 9_000
    assert change_at_ms(OPEN, cheaper, None, Moment(0, 8_000, "boot")) == 8_000
    assert change_at_ms(OPEN, cheaper, None, at(4_000)) == OPEN.seen_to_ms


def test_a_fall_that_a_read_tells_of_which_shows_it_off_came_after_it() -> None:
    """Cut there, all the time since the last look would be charged, whenever it had ended."""
    dearer, cheaper = Tariff(7_200), Tariff(1_800)
    assert change_at_ms(OPEN, cheaper, off(9_000), at(9_000)) is None
    assert change_at_ms(OPEN, cheaper, on(9_000), at(9_000)) == 9_000
    assert change_at_ms(OPEN, dearer, off(9_000), at(9_000)) == OPEN.seen_to_ms


def test_other_terms_at_the_same_price_hold_from_now_on() -> None:
    """They are no rise."""
    assert change_at_ms(OPEN, replace(OPEN.tariff, minimum_s=60), None, at(9_000)) == 9_000


def test_a_discount_that_ends_is_a_rise() -> None:
    """What counts is the price in force, not the list's."""
    nightly = replace(OPEN, tariff=Tariff(3_600, discounts=(Discount(500, Window()),)))
    assert change_at_ms(nightly, Tariff(3_000), None, at(9_000)) == OPEN.seen_to_ms


def test_terms_that_no_clock_has_a_part_in_are_what_they_are() -> None:
    """However far the clocks are apart."""
    plain = Tariff(7_200)
    assert terms_of(OPEN, plain, on(9_000, told_at_ms=HOUR_MS)) is plain


@pytest.mark.parametrize("told_ms", [None, 9_000, 13_999])
def test_clocks_that_agree_or_are_not_told_have_no_part_either(told_ms: int | None) -> None:
    """An answer's date is in whole seconds."""
    told = {} if told_ms is None else {"told_at_ms": told_ms}
    assert terms_of(OPEN, NIGHTLY, on(9_000, **told)) is NIGHTLY
    assert terms_of(OPEN, NIGHTLY, None) is NIGHTLY


def test_the_platforms_clock_is_told_to_the_time_that_is_metered() -> None:
    """Which goes on where our wall clock is set back."""
    read = on(9_000, told_at_ms=9_000 + HOUR_MS)
    assert terms_of(OPEN, NIGHTLY, read).ahead_ms == HOUR_MS
    set_back = PowerRead(Power.RUNNING, Moment(0, 9_000, "boot"), told_at_ms=9_000)
    assert terms_of(OPEN, NIGHTLY, set_back).ahead_ms == 0


def test_what_the_clocks_were_apart_stays_until_the_platform_tells_otherwise() -> None:
    """By five seconds and more."""
    apart = replace(OPEN, tariff=NIGHTLY.told_ahead(HOUR_MS))
    for read in (None, on(9_000), on(9_000, told_at_ms=9_000 + HOUR_MS + 4_999)):
        assert terms_of(apart, NIGHTLY, read) == apart.tariff
    assert terms_of(apart, NIGHTLY, on(9_000, told_at_ms=9_001)).ahead_ms == 0


def test_the_minimum_of_a_start_that_nobody_told_is_the_dearest() -> None:
    """It may have come on right after the night had ended, which was half the price."""
    ends_ms = 8 * HOUR_MS
    tariff = replace(NIGHTLY, minimum_s=600)
    step = MeterStep(open_at_ms=ends_ms - 20_000)
    read = on(ends_ms + 10_000)
    assert dearest_least(tariff, read, step).minimum_micros == 600
    assert dearest_least(tariff, on(ends_ms - 1), step).minimum_micros == 300
    assert dearest_least(replace(tariff, minimum_micros=700), read, step).minimum_micros == 700


def test_a_start_that_is_told_has_its_own_minimum() -> None:
    """Nor is there one where nothing opens, or nothing is charged at least."""
    tariff = replace(NIGHTLY, minimum_s=600)
    read, step = on(9_000), MeterStep(open_at_ms=1_000)
    told = on(9_000, charged_since_ms=1_000)
    assert dearest_least(tariff, told, step) is tariff
    assert dearest_least(tariff, read, MeterStep()) is tariff
    assert dearest_least(NIGHTLY, read, step) is NIGHTLY
