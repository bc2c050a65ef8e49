from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from costguard.core.calendar import Window
from costguard.core.lease import Interval
from costguard.core.meter import (
    NOTHING,
    Metered,
    MeterStep,
    as_of_ms,
    earliest_start_ms,
    fits_unseen,
    in_our_time,
    lease_interval,
    looks_apart_ms,
    owed_micros,
    start_bound_ms,
    step,
    told_of_ms,
    told_start_ms,
    turns_ms,
)
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Discount, Tariff, price_points_ms, repriced, running_micros
from tests.core.meters import OPEN, at, off, on
from tests.core.tariffs import CASES, MANY


def test_rent_begins_when_the_platform_says_within_what_we_saw() -> None:
    """Between our start call and the first read that shows it on."""
    told = step(None, on(5_000, charged_since_ms=3_000), at(5_000), 1_000, 9_999)
    assert told == MeterStep(3_000, earliest_ms=1_000, seen_to_ms=5_000, meter_to_ms=5_000)


def test_rent_that_began_while_the_answer_was_on_its_way_is_in_it() -> None:
    """Asked 11 ms before the start, answered after it: not a second more than ran is charged."""
    read = on(5_000, charged_since_ms=5_011, told_at_ms=5_020)
    assert step(None, read, at(5_030), 1_000, 1) == MeterStep(
        5_011, 1_000, seen_to_ms=5_011, meter_to_ms=5_011
    )
    ahead = on(5_000, charged_since_ms=15_011, told_at_ms=15_020)
    assert step(None, ahead, at(5_030), 1_000, 1).open_at_ms == 1_000


def test_a_start_before_our_call_or_after_our_read_is_not_believed() -> None:
    """The platform's clock or ours is off: the longest interval that is possible is charged."""
    early = step(None, on(5_000, charged_since_ms=1), at(5_000), 1_000, 9_999)
    late = step(None, on(5_000, charged_since_ms=9_000), at(5_000), 1_000, 9_999)
    assert (early.open_at_ms, late.open_at_ms) == (1_000, 1_000)


def test_without_the_platforms_word_rent_begins_at_our_call() -> None:
    """The conservative end of what is possible."""
    assert step(None, on(5_000), at(5_000), 1_000, 9_999).open_at_ms == 1_000


def test_an_instance_that_is_off_opens_nothing() -> None:
    """Nor does a platform that does not answer."""
    assert step(None, off(5_000), at(5_000), 1_000, 9_999) == NOTHING
    assert step(None, None, at(5_000), 1_000, 9_999) == NOTHING


def test_a_read_that_shows_it_on_meters_up_to_when_it_was_asked() -> None:
    """Not up to now: the answer says nothing of later."""
    assert step(OPEN, on(8_000), at(9_000), None, 9_999).meter_to_ms == 8_000


def test_a_clock_set_back_does_not_stop_the_meter() -> None:
    """Elapsed time is the larger of what the two clocks say."""
    read = PowerRead(Power.RUNNING, Moment(100, 8_000, "boot"))
    assert step(OPEN, read, at(8_000), None, 9_999).meter_to_ms == 8_000


def test_the_end_of_rent_is_reckoned_by_its_length_where_clocks_disagree() -> None:
    """The platform's clock may be minutes behind ours: it ran for 10 s from 1000 on."""
    behind = off(19_000, charged_since_ms=-4_000, charged_until_ms=6_000)
    assert step(OPEN, behind, at(19_000), None, 1).close_at_ms == 11_000


def test_the_end_of_rent_that_began_anew_between_two_looks_is_the_later() -> None:
    """Its length is that of the last part alone, so when it ended is what counts."""
    anew = off(19_000, charged_since_ms=4_000, charged_until_ms=7_000)
    assert step(OPEN, anew, at(19_000), None, 1).close_at_ms == 7_000


def test_an_answer_of_unknown_is_charged_and_has_shown_nothing() -> None:
    """When the platform says later that rent had ended before, that is believed."""
    read = PowerRead(Power.UNKNOWN, at(9_000))
    found = step(OPEN, read, at(9_000), None, 1)
    assert found == MeterStep(meter_to_ms=9_000, assumed_from_ms=5_000)
    charged = replace(OPEN, metered_to_ms=9_000)
    told = off(12_000, charged_since_ms=1_000, charged_until_ms=7_000)
    assert step(charged, told, at(12_000), None, 1).close_at_ms == 7_000


def test_rent_ends_when_the_platform_says_within_what_we_saw() -> None:
    """Between the last read on and the first read off."""
    assert step(OPEN, off(9_000, charged_until_ms=7_000), at(9_000), None, 1).close_at_ms == 7_000
    assert step(OPEN, off(9_000, charged_until_ms=4_000), at(9_000), None, 1).close_at_ms == 9_000
    assert step(OPEN, off(9_000, charged_until_ms=99_000), at(9_000), None, 1).close_at_ms == 9_000
    assert step(OPEN, off(9_000), at(9_000), None, 1).close_at_ms == 9_000


def test_off_but_billing_runs_on() -> None:
    """The platform's word on charging counts, not the power lamp."""
    billing = replace(off(9_000), power=Power.OFF_BILLING, charging=True)
    assert step(OPEN, billing, at(9_000), None, 1).meter_to_ms == 9_000


def test_what_is_owed_is_the_whole_interval() -> None:
    """One micro-yuan a second from its start."""
    assert owed_micros(OPEN, 9_000) == 8


def test_time_that_was_assumed_is_not_taken_back_by_a_read() -> None:
    """The meter only moves forward while it is on; the correction comes with the end."""
    assumed = replace(OPEN, metered_to_ms=20_000)
    assert step(assumed, None, at(21_000), None, 5_000).meter_to_ms == 21_000
    seen = step(assumed, on(15_000), at(15_000), None, 5_000)
    assert (seen.seen_to_ms, seen.meter_to_ms) == (15_000, 20_000)


def test_an_end_before_what_was_assumed_is_told_as_it_was() -> None:
    """Owed for less than is metered: the ledger will post a correction."""
    assumed = replace(OPEN, metered_to_ms=20_000)
    found = step(assumed, off(21_000, charged_until_ms=7_000), at(21_000), None, 5_000)
    assert found == MeterStep(close_at_ms=7_000)
    assert owed_micros(assumed, 7_000) < owed_micros(assumed, 20_000)


def test_silence_is_waited_out_up_to_its_limit_and_then_charged_as_running() -> None:
    """Unknown is treated as running; both sides of the limit, counted from when it was seen."""
    assert step(OPEN, None, at(10_000), None, 5_000) == NOTHING
    assert step(OPEN, None, at(10_001), None, 5_000).meter_to_ms == 10_001


def test_a_read_that_does_not_understand_the_state_meters_on() -> None:
    """Unknown is treated as running, and opens the meter too."""
    unknown = PowerRead(Power.UNKNOWN, at(9_000))
    assert step(OPEN, unknown, at(9_000), None, 1).meter_to_ms == 9_000
    assert step(None, unknown, at(9_000), 4_000, 1).open_at_ms == 4_000


def test_an_instance_that_was_not_ours_to_start_is_metered_from_the_first_read() -> None:
    """Nothing earlier is ours, but its hours count from when the platform says that rent began."""
    assert step(None, on(5_000), at(5_000), None, 1).open_at_ms == 5_000
    told = step(None, on(5_000, charged_since_ms=1_000), at(5_000), None, 1)
    assert (told.open_at_ms, told.origin_ms) == (5_000, 1_000)
    junk = step(None, on(5_000, charged_since_ms=5_000), at(5_000), None, 1)
    assert (junk.open_at_ms, junk.origin_ms) == (5_000, None)


def test_a_beginning_that_nobody_knows_may_be_almost_an_hour_ago() -> None:
    """So that the lease is prepared for the next one to begin at any time."""
    hourly = Tariff(15, 3_600)
    found = step(None, on(5_000_000), at(5_000_000), None, 1)
    assert start_bound_ms(found, hourly) == 5_000_000 - 3_600_000 + 1
    assert start_bound_ms(found, replace(hourly, by_clock=True)) is None
    told = step(None, on(5_000_000, charged_since_ms=7), at(5_000_000), None, 1)
    assert start_bound_ms(told, hourly) == 7
    ours = step(None, on(5_000), at(5_000), 1_000, 1)
    assert start_bound_ms(ours, hourly) == 1_000
    assert start_bound_ms(NOTHING, hourly) is None


def test_a_start_call_in_the_future_is_not_after_the_read() -> None:
    """A wall clock set back between the two cannot open an interval that has not begun."""
    assert step(None, on(5_000), at(5_000), 8_000, 1).open_at_ms == 5_000


READS = st.lists(
    st.tuples(st.integers(0, 3_600), st.sampled_from(["on", "unknown", "silent"])), max_size=12
)


@MANY
@given(READS, st.integers(1, 3_600), st.sampled_from([1, 60, 3600]), st.integers(0, 10**6))
def test_however_often_it_is_looked_at_an_interval_costs_the_same(
    looks: list[tuple[int, str]], lasts_s: int, quantum_s: int, price: int
) -> None:
    """Charges are posted as differences of one cumulative price, and the last one is exact."""
    tariff = Tariff(price, quantum_s)
    opened = step(None, on(1_000), at(1_000), 1_000, 0)
    assert opened.open_at_ms is not None
    interval = Metered(1, opened.open_at_ms, at(1_000), 1_000, 1_000, 0, tariff)
    end_ms = 1_000 + lasts_s * 1_000
    posted: list[int] = []
    for after_s, kind in sorted(looks):
        ms = 1_000 + min(after_s, lasts_s) * 1_000
        read = {"on": on(ms), "unknown": PowerRead(Power.UNKNOWN, at(ms)), "silent": None}[kind]
        found = step(interval, read, at(ms), None, 60_000)
        if found.meter_to_ms is not None:
            assert interval.metered_to_ms <= found.meter_to_ms <= ms
            posted.append(owed_micros(interval, found.meter_to_ms) - sum(posted))
            assert posted[-1] >= 0
            seen_ms = found.seen_to_ms or interval.seen_to_ms
            interval = replace(interval, metered_to_ms=found.meter_to_ms, seen_to_ms=seen_ms)
    closed = step(interval, off(end_ms), at(end_ms), None, 60_000)
    assert closed.close_at_ms == end_ms
    posted.append(owed_micros(interval, end_ms) - sum(posted))
    assert posted[-1] >= 0
    assert sum(posted) == running_micros(tariff, 1_000, end_ms)


TIMES = st.none() | st.integers(0, 10_000)


@given(st.integers(0, 10_000), TIMES, TIMES)
def test_rent_never_begins_outside_of_what_we_saw(
    read_ms: int, told_ms: int | None, earliest_ms: int | None
) -> None:
    """Whatever the platform says, and whatever the clocks did."""
    read = replace(on(read_ms), charged_since_ms=told_ms)
    found = step(None, read, at(read_ms), earliest_ms, 0)
    assert found.open_at_ms is not None
    assert found.open_at_ms <= read_ms
    assert earliest_ms is None or found.open_at_ms >= min(earliest_ms, read_ms)


@given(st.integers(5_000, 10_000), TIMES)
def test_rent_never_ends_outside_of_what_we_saw(read_ms: int, told_ms: int | None) -> None:
    """Not before the last read on, not after the first read off."""
    read = replace(off(read_ms), charged_until_ms=told_ms)
    found = step(OPEN, read, at(read_ms), None, 0)
    assert found.close_at_ms is not None
    assert OPEN.seen_to_ms <= found.close_at_ms <= read_ms


def test_an_interval_between_two_looks_is_metered_by_the_platforms_word() -> None:
    """It began after our start call and was over before we looked."""
    told = off(9_000, charged_since_ms=3_000, charged_until_ms=7_000)
    assert step(None, told, at(9_000), 1_000, 1) == MeterStep(3_000, 1_000, close_at_ms=7_000)
    late = off(9_000, charged_since_ms=3_000, charged_until_ms=99_000)
    assert step(None, late, at(9_000), 1_000, 1).close_at_ms == 9_000


def test_an_interval_between_two_looks_may_touch_both() -> None:
    """Begun as our call was sent, or as the read was; both are possible."""
    told = off(9_000, charged_since_ms=1_000, charged_until_ms=7_000)
    assert step(None, told, at(9_000), 1_000, 1) == MeterStep(1_000, 1_000, close_at_ms=7_000)
    brief = off(9_000, charged_since_ms=9_000, charged_until_ms=9_000)
    assert step(None, brief, at(9_000), 1_000, 1) == MeterStep(9_000, 1_000, close_at_ms=9_000)


def test_an_interval_that_was_metered_already_is_not_metered_again() -> None:
    """Its beginning lies before its end, which bounds the next one; both times must be told."""
    told = off(9_000, charged_since_ms=3_000, charged_until_ms=7_000)
    assert step(None, told, at(9_000), 7_000, 1) == NOTHING
    assert step(None, told, at(9_000), None, 1) == NOTHING
    ahead = off(2_000, charged_since_ms=3_000, charged_until_ms=7_000)
    assert step(None, ahead, at(2_000), 1_000, 1) == NOTHING
    assert step(None, off(9_000, charged_until_ms=7_000), at(9_000), 1_000, 1) == NOTHING


def test_an_interval_whose_end_is_not_told_ends_where_it_is_seen_off() -> None:
    """That it began is known: it is charged up to the look, and not while it may be on."""
    began = off(9_000, charged_since_ms=3_000)
    assert step(None, began, at(9_000), 1_000, 1) == MeterStep(3_000, 1_000, close_at_ms=9_000)
    booting = PowerRead(Power.STARTING, at(9_000), charging=False, charged_since_ms=3_000)
    assert step(None, booting, at(9_000), 1_000, 1) == NOTHING


def test_an_interval_that_was_closed_too_early_is_charged_to_its_end() -> None:
    """An old answer had shown it off; it goes on counting from when rent began."""
    told = off(9_000, charged_since_ms=3_000, charged_until_ms=8_000)
    found = MeterStep(5_000, origin_ms=3_000, close_at_ms=8_000)
    assert step(None, told, at(9_000), 5_000, 1) == found


def test_a_poll_or_two_without_an_answer_are_no_run() -> None:
    """Nothing but our own stop call ends a rent within minutes."""
    assert looks_apart_ms(60_000, 5_000) == 305_000
    assert looks_apart_ms(120_000, 0) == 360_000


def test_what_the_platform_tells_goes_before_what_may_have_been() -> None:
    """Its last rent ended before our start call: nothing ran since."""
    told = off(9_000, charged_since_ms=100, charged_until_ms=700)
    assert step(None, told, at(9_000), 1_000, 1, may_have_run=True) == NOTHING
    assert step(None, off(9_000), at(9_000), None, 1, may_have_run=True) == NOTHING


def test_a_start_and_an_end_fit_where_nobody_looked_for_long() -> None:
    """Else off is "not on yet", unless it was called off or seen on."""
    assert fits_unseen(off(9_001), 1_000, 8_000, ends_it=False)
    assert not fits_unseen(off(9_000), 1_000, 8_000, ends_it=False)
    assert fits_unseen(off(9_000), 1_000, 8_000, ends_it=True)
    assert not fits_unseen(None, 1_000, 8_000, ends_it=True)
    assert not fits_unseen(off(9_000), None, 8_000, ends_it=True)


def test_rent_cannot_have_begun_before_it_was_surely_off() -> None:
    """The latest of our call, the last end, and the last off read less the age of a cache."""
    assert earliest_start_ms(1_000, None, None, 5_000) == 1_000
    assert earliest_start_ms(1_000, 3_000, 7_000, 5_000) == 3_000
    assert earliest_start_ms(1_000, 3_000, 9_000, 5_000) == 4_000
    assert earliest_start_ms(None, None, None, 0) is None


def test_rent_that_someone_else_began_before_our_call_is_told_by_the_platforms_clock() -> None:
    """Off at 400, switched on in the console at 600, and called on by us at 1,000."""
    told = on(9_000, charged_since_ms=600, told_at_ms=9_000)
    assert told_start_ms(told, 1_000, 400) == 600
    assert told_start_ms(on(9_000, charged_since_ms=1_500, told_at_ms=9_000), 1_000, 400) == 1_000


def test_our_call_bounds_what_no_clock_is_told_with_and_what_is_of_an_earlier_rent() -> None:
    """Or where it is not known when it last was off."""
    told = on(9_000, charged_since_ms=600, told_at_ms=9_000)
    assert told_start_ms(told, 1_000, 601) == 1_000
    assert told_start_ms(told, 1_000, None) == 1_000
    assert told_start_ms(told, None, 400) is None
    assert told_start_ms(on(9_000, charged_since_ms=600), 1_000, 400) == 1_000
    assert told_start_ms(on(9_000, told_at_ms=9_000), 1_000, 400) == 1_000
    assert told_start_ms(None, 1_000, 400) == 1_000


def test_a_start_after_the_last_end_by_the_platforms_clock_is_believed() -> None:
    """Whatever an answer of off out of a cache said since; one before that end is another rent."""
    told = on(9_000, charged_since_ms=600, told_at_ms=9_000)
    assert told_start_ms(told, 1_000, 700, 599) == 600
    assert told_start_ms(told, 1_000, 400, 600) == 1_000
    assert told_start_ms(told, None, 400, 500) is None


def test_what_the_platforms_clock_said_is_told_back_from_a_read() -> None:
    """Where it tells the time, and anything at all."""
    told = off(9_000, told_at_ms=20_000)
    assert told_of_ms(told, 5_000) == 16_000
    assert told_of_ms(off(9_000), 5_000) is None
    assert told_of_ms(None, 5_000) is None
    assert told_of_ms(PowerRead(Power.UNKNOWN, at(9_000), told_at_ms=20_000), 5_000) is None


def test_an_earlier_instant_is_told_by_the_clock_of_now() -> None:
    """The wall clock was set back by an hour since: the boot clock says how long ago it was."""
    now = Moment(5_000 - 3_600_000, 5_000, "boot")
    assert as_of_ms(at(1_000), now) == now.utc_ms - 4_000


def test_times_told_by_another_clock_are_taken_over_into_ours() -> None:
    """What lies inside of what we saw may still be a minute late; small differences are latency."""
    told = off(60_000, charged_since_ms=81_000, charged_until_ms=90_000, told_at_ms=120_000)
    ours = in_our_time(told)
    assert ours is not None
    assert (ours.charged_since_ms, ours.charged_until_ms) == (21_000, 35_000)
    agreeing = replace(told, told_at_ms=64_999)
    assert in_our_time(agreeing) is agreeing
    assert in_our_time(off(60_000)) == off(60_000)
    assert in_our_time(off(60_000, told_at_ms=1)) == off(60_000, told_at_ms=1)
    assert in_our_time(None) is None


@given(st.integers(0, 10_000), TIMES, TIMES, TIMES)
def test_an_unseen_interval_never_ends_before_it_began(
    read_ms: int, since_ms: int | None, until_ms: int | None, earliest_ms: int | None
) -> None:
    """Nor lies outside of what we saw, whatever the platform says."""
    read = replace(off(read_ms), charged_since_ms=since_ms, charged_until_ms=until_ms)
    found = step(None, read, at(read_ms), earliest_ms, 0)
    if found != NOTHING:
        assert found.open_at_ms is not None
        assert found.close_at_ms is not None
        assert earliest_ms is not None
        assert earliest_ms <= found.open_at_ms <= found.close_at_ms <= read_ms


# --------------------------------------------------------------------------- changes of price


def test_the_turns_of_an_interval_are_where_a_night_begins_and_ends() -> None:
    """From its start on, up to where it is metered; neither of the two is a turn."""
    night = Window(from_s=3_600, until_s=7_200)
    tariff = Tariff(3_600, discounts=(Discount(500, night),), zone="UTC")
    interval = Metered(1, 0, at(0), 0, 0, 0, tariff)
    assert turns_ms(interval, 7_200_001) == (3_600_000, 7_200_000)
    assert turns_ms(interval, 7_200_000) == (3_600_000,)


def test_a_part_after_a_change_of_price_does_not_begin_its_hour_anew() -> None:
    """The hour that had begun is paid; the next is at the new price, at its old boundary."""
    hourly = Tariff(15, 3_600)
    first = replace(OPEN, tariff=hourly)
    turn_ms = 1_000 + 1_800_000
    tariff = repriced(hourly, Tariff(18, 3_600), turn_ms)
    second = replace(first, started_ms=turn_ms, origin_ms=1_000, tariff=tariff)
    assert (first.rent_ms, second.rent_ms) == (1_000, 1_000)
    assert owed_micros(first, turn_ms) == 15
    assert owed_micros(second, 1_000 + 3_600_000) == 0
    assert owed_micros(second, 1_000 + 3_600_001) == 18


@MANY
@given(CASES)
def test_cut_at_its_turns_an_interval_costs_the_same(case: tuple[Tariff, int, int]) -> None:
    """Each part under one price, no quantum twice."""
    tariff, start_ms, lasts_ms = case
    end_ms = start_ms + lasts_ms
    whole = replace(OPEN, started_ms=start_ms, tariff=tariff)
    turns = turns_ms(whole, end_ms)
    total = 0
    for begins_ms, ends_ms in zip((start_ms, *turns), (*turns, end_ms), strict=True):
        part = replace(whole, started_ms=begins_ms, origin_ms=start_ms)
        assert not tuple(price_points_ms(tariff, begins_ms, ends_ms))
        assert owed_micros(part, ends_ms) >= 0
        total += owed_micros(part, ends_ms)
    assert total == owed_micros(whole, end_ms)


# --------------------------------------------------------------------------- for the lease


def test_the_lease_goes_by_the_time_that_is_metered() -> None:
    """A wall clock that was set back, or books that assumed more, do not make it shorter."""
    back = Moment(100, 8_000, "boot")
    assert lease_interval(OPEN, back) == Interval(1, 1_000, 0, None, ahead_ms=7_900)
    assumed = replace(OPEN, metered_to_ms=20_000, earliest_ms=500)
    assert lease_interval(assumed, at(9_000)) == Interval(1, 1_000, 0, 500, ahead_ms=11_000)


def test_the_lease_counts_what_the_parts_before_have_cost() -> None:
    """The quanta are those of the whole interval, and so is what is posted."""
    part = replace(OPEN, started_ms=3_000, origin_ms=1_000, posted_micros=2)
    assert lease_interval(part, at(5_000)) == Interval(1, 1_000, 4)
