from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, strategies as st

from costguard.core.calendar import Window
from costguard.core.tariff import (
    Discount,
    ForeignPrice,
    PriceChange,
    Tariff,
    foreign_tariff,
    free_left_s,
    hold_micros,
    list_price_micros,
    longest_ms,
    paid_until_ms,
    paused_micros,
    price_micros,
    price_points_ms,
    repriced,
    running_micros,
    same_terms,
    tariff_from_json,
)
from tests.core.naive_tariff import naive_micros, naive_price
from tests.core.tariffs import CASES, HOUR_MS, MANY, MIDNIGHT_MS, STARTS, YUAN, tariffs

AMOUNTS = st.integers(-1, 200 * YUAN)
FOREIGN = st.builds(
    ForeignPrice,
    currency=st.text(),
    price_micros_per_hour=st.integers(0, YUAN),
    numerator=st.integers(1, YUAN),
    denominator=st.integers(1, YUAN),
    date=st.just("2026-11-23"),
)
NIGHT = Window(from_s=23 * 3_600, until_s=7 * 3_600)
NIGHTLY = Tariff(20 * YUAN, discounts=(Discount(500, NIGHT),))
HOLIDAY = Discount(800, Window(dates=("2026-10-01", "2026-10-02")))


def at(text: str) -> int:
    """UTC ms of a time in Shanghai."""
    return int(datetime.fromisoformat(f"{text}+08:00").timestamp()) * 1_000


# --------------------------------------------------------------------------- by the hour


@pytest.mark.parametrize(("yuan", "twenty_hours"), [(15, 300), (20, 400), (40, 800)])
@pytest.mark.parametrize("quantum_s", [1, 60, 3_600])
def test_the_articles_figures_come_out_to_the_fen(
    yuan: int, twenty_hours: int, quantum_s: int
) -> None:
    """Two hours a day, five days a week, two weeks: 20 hours, at each of its three prices."""
    tariff = Tariff(yuan * YUAN, quantum_s)
    assert running_micros(tariff, 0, 20 * HOUR_MS) == twenty_hours * YUAN
    assert 10 * running_micros(tariff, 0, 2 * HOUR_MS) == twenty_hours * YUAN


@pytest.mark.parametrize("quantum_s", [1, 60, 3_600])
def test_the_articles_table_comes_to_75_yuan(quantum_s: int) -> None:
    """1 + 1 + 2 + 1 hours of a 3090 at 15 yuan, each with a start of its own."""
    tariff = Tariff(15 * YUAN, quantum_s)
    rows = [running_micros(tariff, 0, hours * HOUR_MS) for hours in (1, 1, 2, 1)]
    assert rows == [15 * YUAN, 15 * YUAN, 30 * YUAN, 15 * YUAN]
    assert sum(rows) == 75 * YUAN


@pytest.mark.parametrize(
    ("quantum_s", "duration_ms", "seconds"),
    [
        (1, 0, 0),
        (1, -5, 0),
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
    """Each start rounds up to the billing quantum; an hour begun is posted whole."""
    tariff = Tariff(3_600, quantum_s)  # one micro-yuan a second
    assert running_micros(tariff, 77, 77 + duration_ms) == seconds


# --------------------------------------------------------------------------- against the reckoning


@MANY
@given(CASES)
def test_an_interval_costs_what_a_person_reckons(case: tuple[Tariff, int, int]) -> None:
    """Every rule at once, quantum by quantum, in fractions, rounded up once at the end."""
    tariff, start_ms, lasts_ms = case
    end_ms = start_ms + lasts_ms
    assert running_micros(tariff, start_ms, end_ms) == naive_micros(tariff, start_ms, end_ms)


@MANY
@given(CASES, AMOUNTS)
def test_the_longest_run_is_affordable_and_a_millisecond_more_is_not(
    case: tuple[Tariff, int, int], amount: int
) -> None:
    """`longest_ms` is the exact inverse of the price, whatever the tariff."""
    tariff, start_ms, most_ms = case
    longest = longest_ms(tariff, start_ms, amount, most_ms)
    assert 0 <= longest <= most_ms
    assert longest == 0 or running_micros(tariff, start_ms, start_ms + longest) <= amount
    if longest < most_ms:
        assert running_micros(tariff, start_ms, start_ms + longest + 1) > amount


@MANY
@given(CASES, st.lists(st.integers(0, 96 * HOUR_MS), min_size=1, max_size=8))
def test_metering_in_any_number_of_steps_costs_the_same(
    case: tuple[Tariff, int, int], lengths: list[int]
) -> None:
    """No step is negative, so that what was posted never has to be taken back."""
    tariff, start_ms, _ = case
    posted = 0
    for length_ms in sorted(lengths):
        step = running_micros(tariff, start_ms, start_ms + length_ms) - posted
        assert step >= 0
        posted += step
    assert posted == running_micros(tariff, start_ms, start_ms + max(lengths))


@given(tariffs(1, 60), STARTS, st.lists(st.integers(0, 24 * HOUR_MS), min_size=2, max_size=2))
def test_two_starts_cost_no_less_than_one(tariff: Tariff, start_ms: int, cut: list[int]) -> None:
    """A stop and a start in the middle round up once more; free time is for one of them."""
    once = replace(tariff, minimum_s=0, minimum_micros=0, free_s=0, by_clock=True)
    middle_ms, end_ms = (start_ms + length_ms for length_ms in sorted(cut))
    whole = running_micros(once, start_ms, end_ms)
    parts = running_micros(once, start_ms, middle_ms) + running_micros(once, middle_ms, end_ms)
    dearest = max(
        (price_micros(once, point) for point in _points(once, start_ms, end_ms + 1)), default=0
    )
    assert parts <= whole + once.quantum_s * dearest // 3_600 + 2
    assert parts >= whole


def _points(tariff: Tariff, start_ms: int, end_ms: int) -> list[int]:
    return [start_ms, *price_points_ms(tariff, start_ms, end_ms)]


@given(CASES, st.integers(0, 3_600))
def test_a_longer_interval_around_it_never_costs_less_per_second(
    case: tuple[Tariff, int, int], earlier_s: int
) -> None:
    """Rent that may have begun earlier is reserved from there: by the second that is the dearer."""
    tariff, start_ms, lasts_ms = case
    plain = replace(tariff, quantum_s=1, free_s=0, minimum_s=0, by_clock=False)
    wide = running_micros(plain, start_ms - earlier_s * 1_000, start_ms + lasts_ms)
    assert wide >= running_micros(plain, start_ms, start_ms + lasts_ms)


@MANY
@given(tariffs(1, 60, 3_600), STARTS, st.integers(1, 72 * HOUR_MS))
def test_the_price_points_are_where_the_price_changes(
    tariff: Tariff, start_ms: int, lasts_ms: int
) -> None:
    """Between two of them the price in force is one; at each it is another."""
    end_ms = start_ms + lasts_ms
    points = list(price_points_ms(tariff, start_ms, end_ms))
    assert points == sorted(set(points))
    assert all(start_ms < point < end_ms for point in points)
    for begins, ends in zip([start_ms, *points], [*points, end_ms], strict=True):
        assert naive_price(tariff, begins) == naive_price(tariff, (begins + ends) // 2)
        assert naive_price(tariff, begins) == naive_price(tariff, ends - 1)
    for point in points:
        assert naive_price(tariff, point) != naive_price(tariff, point - 1)


# --------------------------------------------------------------------------- each rule by itself


@pytest.mark.parametrize(
    ("start", "minutes", "hours"),
    [("10:00", 60, 1), ("10:40", 20, 1), ("10:40", 21, 2), ("10:59", 2, 2), ("10:00", 61, 2)],
)
def test_on_the_clock_an_hour_is_the_clocks(start: str, minutes: int, hours: int) -> None:
    """From 10:40 to 11:01 are two hours, not one."""
    tariff = Tariff(15 * YUAN, 3_600, by_clock=True)
    start_ms = at(f"2026-11-25T{start}")
    assert running_micros(tariff, start_ms, start_ms + minutes * 60_000) == hours * 15 * YUAN


def test_the_clock_is_the_platforms() -> None:
    """In Kolkata an hour begins at half past by UTC."""
    tariff = Tariff(15 * YUAN, 3_600, by_clock=True, zone="Asia/Kolkata")
    assert running_micros(tariff, HOUR_MS // 4, HOUR_MS // 2) == 15 * YUAN
    assert running_micros(tariff, HOUR_MS // 4, HOUR_MS // 2 + 1) == 30 * YUAN


def test_a_clock_that_is_off_by_quarters_of_an_hour_counts_forward() -> None:
    """In Kathmandu, 5:45 ahead, an hour begins a quarter past by UTC."""
    tariff = Tariff(15 * YUAN, 3_600, by_clock=True, zone="Asia/Kathmandu")
    quarter_ms = MIDNIGHT_MS + HOUR_MS // 4
    assert running_micros(tariff, MIDNIGHT_MS, quarter_ms) == 15 * YUAN
    assert running_micros(tariff, MIDNIGHT_MS, quarter_ms + 1) == 30 * YUAN


def test_without_a_minimum_what_costs_nothing_is_nothing() -> None:
    """Two free seconds, and then a price of zero; nor is a disk that was kept for no time paid."""
    tariff = Tariff(3_600, 1, 3_600, free_s=2, changes=(PriceChange(2_000, 0),))
    assert running_micros(tariff, 0, 3_000) == 0
    assert paused_micros(tariff, 0) == 0


def test_a_price_alone_is_the_plainest_rule() -> None:
    """Per second, from the start, nothing for the disk, in Shanghai."""
    plain = Tariff(5, 1, 0, False, 0, 0, 0, 1, "Asia/Shanghai", (), (), None)
    assert Tariff(5) == plain


def test_a_start_costs_at_least_its_minimum() -> None:
    """One minute of AWS, or one fen."""
    minute = Tariff(3_600, minimum_s=60)
    assert [running_micros(minute, 0, s * 1_000) for s in (0, 1, 60, 61)] == [0, 60, 60, 61]
    fen = Tariff(3_600, minimum_micros=10_000)
    assert running_micros(fen, 0, 1) == 10_000
    assert running_micros(fen, 0, 10_001_000) == 10_001
    assert longest_ms(fen, 0, 9_999, HOUR_MS) == 0
    assert longest_ms(minute, 0, 59, HOUR_MS) == 0
    assert longest_ms(minute, 0, 60, HOUR_MS) == 60_000


def test_free_minutes_are_used_first() -> None:
    """What is left of them is the next start's."""
    tariff = Tariff(3_600, 60, free_s=150)  # two whole minutes of it
    assert [running_micros(tariff, 0, s * 1_000) for s in (60, 120, 121)] == [0, 0, 60]
    assert longest_ms(tariff, 0, 0, HOUR_MS) == 120_000
    assert longest_ms(tariff, 0, 60, HOUR_MS) == 180_000
    assert [free_left_s(tariff, 0, s * 1_000) for s in (0, 1, 61, 121)] == [150, 90, 30, 0]


@pytest.mark.parametrize(
    ("start", "end", "yuan"),
    [
        ("2026-11-25T22:00", "2026-11-25T23:00", 20),
        ("2026-11-25T22:00", "2026-11-26T00:00", 30),
        ("2026-11-25T23:00", "2026-11-26T07:00", 80),
        ("2026-11-26T06:30", "2026-11-26T07:30", 15),
        ("2026-11-25T00:00", "2026-11-28T00:00", 3 * (8 * 10 + 16 * 20)),
    ],
)
def test_a_night_costs_half(start: str, end: str, yuan: int) -> None:
    """From eleven to seven, counted on the platform's clock, over midnight."""
    assert running_micros(NIGHTLY, at(start), at(end)) == yuan * YUAN


def test_an_hour_begun_before_the_night_keeps_its_price() -> None:
    """The price of a quantum is the one in force when it began."""
    hourly = replace(NIGHTLY, quantum_s=3_600)
    start_ms = at("2026-11-25T22:30")
    assert running_micros(hourly, start_ms, start_ms + HOUR_MS) == 20 * YUAN
    assert running_micros(hourly, start_ms, start_ms + HOUR_MS + 1) == 30 * YUAN


def test_a_holiday_is_named_by_its_date() -> None:
    """And where a night falls on it the dearer of the two discounts counts."""
    tariff = Tariff(20 * YUAN, discounts=(Discount(500, NIGHT), HOLIDAY))
    assert price_micros(tariff, at("2026-10-01T12:00")) == 16 * YUAN
    assert price_micros(tariff, at("2026-10-01T23:30")) == 16 * YUAN
    assert price_micros(tariff, at("2026-10-03T12:00")) == 20 * YUAN
    assert price_micros(tariff, at("2026-10-03T06:00")) == 10 * YUAN
    assert list_price_micros(tariff, at("2026-10-03T06:00")) == 20 * YUAN


def test_a_price_after_discount_is_shown_rounded_up() -> None:
    """Never less than it is."""
    assert price_micros(Tariff(3, discounts=(Discount(500, Window()),)), 0) == 2


def test_a_change_of_price_splits_exactly() -> None:
    """Ten seconds at one price, five at the other; hours begun keep theirs."""
    tariff = Tariff(3_600, changes=(PriceChange(10_000, 7_200), PriceChange(20_000, 0)))
    assert running_micros(tariff, 0, 15_000) == 10 + 5 * 2
    assert running_micros(tariff, 0, 99_000) == 10 + 10 * 2
    assert running_micros(tariff, 12_000, 15_000) == 3 * 2
    assert running_micros(replace(tariff, quantum_s=3_600), 5_000, 99_000) == 3_600
    assert longest_ms(tariff, 0, 12, HOUR_MS) == 11_000
    assert longest_ms(tariff, 0, 30, HOUR_MS) == HOUR_MS


def test_a_free_instance_may_run_as_long_as_is_wanted() -> None:
    """Without a price nothing but the wish is the limit; without money nothing runs."""
    assert longest_ms(Tariff(0), 0, 0, 5) == 5
    assert longest_ms(Tariff(0), 0, -1, 5) == 0
    assert longest_ms(Tariff(1), 0, 0, 5) == 0


def test_a_price_abroad_becomes_yuan_rounded_up_and_keeps_its_date() -> None:
    """0.34 dollars at 7.1234 yuan are 2.421956 yuan; the ledger knows yuan alone."""
    price = ForeignPrice("USD", 340_000, 71_234, 10_000, "2026-11-23")
    tariff = foreign_tariff(price, quantum_s=60, paused_micros_per_hour=price.in_yuan(1))
    assert tariff.price_micros_per_hour == 2_421_956
    assert tariff.paused_micros_per_hour == 8
    assert running_micros(tariff, 0, HOUR_MS) == 2_421_956
    assert tariff_from_json(tariff.to_json()).foreign == price


# --------------------------------------------------------------------------- paid until


@pytest.mark.parametrize(
    ("tariff", "start", "now", "until"),
    [
        (Tariff(YUAN, 3_600), "10:40", "10:41", "11:40"),
        (Tariff(YUAN, 3_600), "10:40", "11:40", "11:40"),
        (Tariff(YUAN, 3_600), "10:40", "10:40", "10:40"),
        (Tariff(YUAN, 3_600), "10:40", "10:30", "10:40"),
        (Tariff(YUAN, 3_600, by_clock=True), "10:40", "10:41", "11:00"),
        (Tariff(YUAN, 60, minimum_s=600), "10:40", "10:41", "10:50"),
        (Tariff(YUAN, 60, minimum_s=600), "10:40", "10:55", "10:55"),
    ],
)
def test_paid_until_is_where_the_next_quantum_begins(
    tariff: Tariff, start: str, now: str, until: str
) -> None:
    """An hour begun is paid whole, a minimum too."""
    day = "2026-11-25T"
    assert paid_until_ms(tariff, at(day + start), at(day + now)) == at(day + until)


@MANY
@given(CASES)
def test_up_to_paid_until_nothing_more_is_owed(case: tuple[Tariff, int, int]) -> None:
    """And it is never in the past."""
    tariff, start_ms, lasts_ms = case
    end_ms = start_ms + lasts_ms
    until_ms = paid_until_ms(tariff, start_ms, end_ms)
    assert until_ms >= end_ms
    assert running_micros(tariff, start_ms, until_ms) == running_micros(tariff, start_ms, end_ms)


# --------------------------------------------------------------------------- change of terms


@given(tariffs(1, 60), tariffs(1, 60), STARTS, st.integers(1, HOUR_MS), st.integers(1, HOUR_MS))
def test_repriced_charges_old_terms_before_and_new_terms_after(
    old: Tariff, new: Tariff, start_ms: int, before_ms: int, after_ms: int
) -> None:
    """Of the list price, with what is announced of it."""
    old = Tariff(old.price_micros_per_hour, changes=old.changes)
    new = Tariff(new.price_micros_per_hour, changes=new.changes)
    turn_ms = start_ms + before_ms
    both = repriced(old, new, turn_ms)
    assert running_micros(both, start_ms, turn_ms) == running_micros(old, start_ms, turn_ms)
    after = running_micros(new, turn_ms, turn_ms + after_ms)
    assert running_micros(both, turn_ms, turn_ms + after_ms) == after


def test_repriced_keeps_the_intervals_own_free_time() -> None:
    """What the platform still has to give is not given twice."""
    old = Tariff(YUAN, free_s=600, changes=(PriceChange(5, 2 * YUAN),))
    found = repriced(old, Tariff(3 * YUAN, free_s=100), 9)
    expected = Tariff(
        YUAN, free_s=600, changes=(PriceChange(5, 2 * YUAN), PriceChange(9, 3 * YUAN))
    )
    assert found == expected
    assert repriced(found, found, 9) == found
    assert repriced(old, old, 5) == old


def test_the_same_terms_are_no_change() -> None:
    """The past, free time left, the disk's price and the day of a rate do not count as one."""
    now = Tariff(2 * YUAN, paused_micros_per_hour=7, paused_quantum_s=60, free_s=5)
    was = Tariff(YUAN, changes=(PriceChange(5, 2 * YUAN),))
    assert same_terms(was, now, 9)
    assert not same_terms(was, now, 4)
    assert not same_terms(was, replace(now, minimum_s=60), 9)
    ahead = replace(now, changes=(PriceChange(20, 3 * YUAN),))
    assert not same_terms(was, ahead, 9)
    dollars = ForeignPrice("USD", YUAN, 7, 1, "2026-11-23")
    assert same_terms(
        foreign_tariff(dollars), foreign_tariff(replace(dollars, date="2026-11-24")), 9
    )


# --------------------------------------------------------------------------- kept and refused


def test_a_night_and_a_holiday_are_read_back_as_they_were_written() -> None:
    """Every kind of window that a tariff may have."""
    tariff = replace(NIGHTLY, discounts=(*NIGHTLY.discounts, HOLIDAY))
    assert tariff_from_json(tariff.to_json()) == tariff


@given(tariffs(1, 60, 3_600), st.none() | FOREIGN)
def test_a_tariff_is_read_back_as_it_was_written(
    tariff: Tariff, foreign: ForeignPrice | None
) -> None:
    """Equal in every field."""
    kept = replace(tariff, foreign=foreign)
    assert tariff_from_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"quantum_s": 0}, "quantum"),
        ({"paused_quantum_s": 0}, "quantum"),
        ({"quantum_s": 7, "by_clock": True}, "divides the hour"),
        ({"changes": (PriceChange(2, 1), PriceChange(1, 1))}, "order"),
        ({"changes": (PriceChange(2, 1), PriceChange(2, 3))}, "order"),
        ({"by_clock": True, "zone": "Asia/Shanghia"}, "Asia/Shanghia"),
        ({"discounts": (HOLIDAY,), "zone": "../etc"}, "zone"),
    ],
)
def test_what_could_not_be_computed_with_is_refused(wrong: dict[str, object], why: str) -> None:
    """Before any money rests on it."""
    with pytest.raises(ValueError, match=why):
        Tariff(1, **wrong)  # type: ignore[arg-type]  # wrong on purpose


# --------------------------------------------------------------------------- while it is off


def test_the_disk_is_held_for_as_long_as_it_is_to_be_kept() -> None:
    """F is the paused price times the keeping time, rounded up to the disk's own quantum."""
    tariff = Tariff(15 * YUAN, 1, 36_000)
    assert hold_micros(tariff, 7 * 24 * HOUR_MS) == 7 * 24 * 36_000
    assert paused_micros(tariff, HOUR_MS // 2) == 18_000
    daily = replace(tariff, paused_quantum_s=86_400)
    assert paused_micros(daily, 1) == hold_micros(daily, 24 * HOUR_MS) == 24 * 36_000
    assert paused_micros(daily, 24 * HOUR_MS + 1) == 48 * 36_000
    assert paused_micros(Tariff(0, 1, 1), 1) == 1


def test_midnight_is_where_the_tests_think_it_is() -> None:
    """The property tests' window of days lies around it."""
    assert at("2026-11-25T00:00") == MIDNIGHT_MS


def test_nights_and_hours_are_those_of_the_platforms_clock() -> None:
    """An hour ahead of the one that instants are told by here: both begin an hour earlier."""
    night = Tariff(3_600, zone="UTC", discounts=(Discount(500, Window(8 * 3_600, 10 * 3_600)),))
    ahead = night.told_ahead(3_600_000)
    times_ms = [hour * 3_600_000 for hour in (6, 7, 8, 9, 10)]
    assert [price_micros(night, at) for at in times_ms] == [3_600, 3_600, 1_800, 1_800, 3_600]
    assert [price_micros(ahead, at) for at in times_ms] == [3_600, 1_800, 1_800, 3_600, 3_600]
    assert list(price_points_ms(ahead, 0, times_ms[-1])) == [times_ms[1], times_ms[3]]
    hourly = Tariff(3_600, 3_600, by_clock=True, zone="UTC")
    assert running_micros(hourly, 600_000, 3_000_000) == 3_600
    assert running_micros(hourly.told_ahead(1_200_000), 600_000, 3_000_000) == 7_200


def test_a_tariff_that_goes_by_no_clock_is_told_no_other() -> None:
    """And one that knows already stays itself."""
    plain, hourly = Tariff(3_600), Tariff(3_600, 3_600, by_clock=True, ahead_ms=7)
    assert plain.told_ahead(7) is plain
    assert hourly.told_ahead(7) is hourly
    assert tariff_from_json(hourly.to_json()) == hourly


def test_a_minimum_that_was_settled_on_stays_where_other_terms_come() -> None:
    """It is the start's, and is no change by itself."""
    settled = Tariff(3_600, minimum_micros=900)
    assert repriced(settled, Tariff(7_200), 1_000).minimum_micros == 900
    assert same_terms(settled, Tariff(3_600), 1_000)
