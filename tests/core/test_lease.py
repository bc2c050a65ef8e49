from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from costguard.core.calendar import Window
from costguard.core.lease import (
    Account,
    Interval,
    Lease,
    Offer,
    affordable_ms,
    aside_micros,
    has_ended,
    is_due,
    needed_micros,
    offer_lease,
    paid_left_ms,
    runway_ms,
)
from costguard.core.moment import Moment
from costguard.core.tariff import Discount, PriceChange, Tariff, running_micros
from tests.core.tariffs import CASES, HOUR_MS, MANY, MIDNIGHT_MS

NOW = Moment(10_000_000, 10_000_000, "boot")
SECOND = Tariff(3_600_000_000, 1)  # 1 yuan a second
YUAN = 1_000_000
L_MS = 20_000


def account(cap: int | None, posted: int = 0, pending: int = 0, hold: int = 0) -> Account:
    """A scope with this cap, in yuan."""
    cap_micros = None if cap is None else cap * YUAN
    return Account("job x", cap_micros, posted * YUAN, pending * YUAN, hold * YUAN)


def lease(remaining_yuan: int, end_in_ms: int = 60_000) -> Lease:
    """An open lease that still holds this much."""
    started = NOW.plus_ms(-60_000)
    return Lease(1, 1, started, NOW.plus_ms(end_in_ms), remaining_yuan * YUAN, 0, final=False)


def test_a_lease_reserves_running_to_its_end_and_the_stop_after_it() -> None:
    """60 s and L = 20 s at 1 yuan a second reserve 80 yuan."""
    offer = offer_lease(SECOND, None, None, (account(100),), NOW, 60_000, L_MS, 30_000)
    assert offer is not None
    assert (offer.length_ms, offer.increment_micros, offer.final) == (60_000, 80 * YUAN, False)


def test_a_lease_is_cut_to_what_every_scope_allows() -> None:
    """The tightest of job, project and month decides, and the offer is the final one."""
    scopes = (account(1_000), account(70), account(None))
    offer = offer_lease(SECOND, None, None, scopes, NOW, 60_000, L_MS, 30_000)
    assert offer is not None
    assert (offer.length_ms, offer.increment_micros, offer.final) == (50_000, 70 * YUAN, True)


def test_what_a_duplicate_may_cost_is_set_aside_as_far_as_there_is_room() -> None:
    """30 s of it at 1 yuan a second, of what the tightest scope has beside the lease's 80 yuan."""
    offer = Offer(60_000, 80 * YUAN, final=False)

    def aside(*scopes: Account) -> int:
        return aside_micros(SECOND, None, scopes, offer, NOW, 30_000, L_MS)

    assert aside(account(None)) == 30 * YUAN
    assert aside(account(500), account(200)) == 30 * YUAN
    assert aside(account(500), account(95)) == 15 * YUAN
    assert aside(account(80)) == 0


def test_what_was_set_aside_before_is_not_set_aside_again() -> None:
    """The daemon died between the reservation and the call: 80 yuan for the lease, 30 beside it."""
    offer = Offer(60_000, 0, final=False)
    for held, more in ((110, 0), (95, 15), (80, 30), (200, 0)):
        lease = Lease(1, 1, NOW, NOW.plus_ms(60_000), held * YUAN, 0, final=False)
        scopes = (account(None),)
        found = aside_micros(SECOND, lease, scopes, offer, NOW, 30_000, L_MS)
        assert found == more * YUAN


def test_the_disks_share_of_the_cap_is_not_lent_out() -> None:
    """F counts against the cap from the start."""
    offer = offer_lease(SECOND, None, None, (account(80, hold=20),), NOW, 60_000, L_MS, 30_000)
    assert offer is not None
    assert offer.length_ms == 40_000


def test_what_does_not_reach_for_a_lease_worth_having_is_refused() -> None:
    """Under the shortest lease nothing is rented at all."""
    assert offer_lease(SECOND, None, None, (account(49),), NOW, 60_000, L_MS, 30_000) is None


def test_nothing_is_granted_in_breach() -> None:
    """Facts past a cap end all granting."""
    assert offer_lease(SECOND, None, None, (account(10, posted=11),), NOW, 60_000, L_MS, 0) is None


def test_a_renewal_reserves_only_the_increment() -> None:
    """What the open lease still holds is used first."""
    interval = Interval(1, NOW.utc_ms - 60_000, 60 * YUAN)
    scopes = (account(1_000, posted=60, pending=50),)
    offer = offer_lease(SECOND, interval, lease(50), scopes, NOW, 60_000, L_MS, 0)
    assert offer is not None
    assert offer.increment_micros == (80 - 50) * YUAN


def test_within_a_paid_hour_a_renewal_costs_nothing() -> None:
    """An hour begun is paid; running on inside it reserves no more."""
    hourly = Tariff(15 * YUAN, 3600)
    interval = Interval(1, NOW.utc_ms - 600_000, 15 * YUAN)
    offer = offer_lease(hourly, interval, lease(0), (account(15, 15),), NOW, 900_000, L_MS, 0)
    assert offer is not None
    assert (offer.length_ms, offer.increment_micros) == (900_000, 0)


def test_an_hourly_lease_ends_before_the_boundary_it_cannot_pay() -> None:
    """The end lies L before the next hour when that hour does not fit."""
    hourly = Tariff(15 * YUAN, 3600)
    interval = Interval(1, NOW.utc_ms - 3_000_000, 15 * YUAN)
    offer = offer_lease(hourly, interval, lease(0), (account(20, 15),), NOW, 900_000, L_MS, 0)
    assert offer is not None
    assert (offer.length_ms, offer.final) == (600_000 - L_MS, True)


def test_renewal_is_due_at_half_and_the_end_counts_by_either_clock() -> None:
    """Half of the lease is left for trying again."""
    held = lease(10)
    assert is_due(held, NOW)
    assert not is_due(lease(10, end_in_ms=61_000), NOW)
    assert has_ended(held, Moment(0, NOW.boot_ms + 60_000, "boot"))
    assert not has_ended(held, NOW)


AMOUNTS = st.integers(0, 500)


@MANY
@given(
    price=st.integers(1, 10_000 * YUAN),
    quantum_s=st.sampled_from([1, 60, 3600]),
    cap=AMOUNTS,
    posted=AMOUNTS,
    hold=AMOUNTS,
    held=AMOUNTS,
    so_far_ms=st.integers(0, 7_200_000),
    wanted_ms=st.integers(1_000, 3_600_000),
)
def test_no_offer_ever_breaks_the_cap(
    price: int,
    quantum_s: int,
    cap: int,
    posted: int,
    hold: int,
    held: int,
    so_far_ms: int,
    wanted_ms: int,
) -> None:
    """Invariant I1: what an offer adds is free in every scope, and pays for all that it allows."""
    tariff = Tariff(price, quantum_s)
    started_ms = NOW.utc_ms - so_far_ms
    interval = Interval(1, started_ms, running_micros(tariff, 0, so_far_ms))
    scope = account(cap, posted, held, hold)
    offer = offer_lease(tariff, interval, lease(held), (scope,), NOW, wanted_ms, L_MS, 0)
    if offer is None:
        return
    assert scope.left_micros is not None
    assert 0 <= offer.increment_micros <= scope.left_micros
    total = running_micros(tariff, 0, so_far_ms + offer.length_ms + L_MS)
    assert interval.posted_micros + held * YUAN + offer.increment_micros >= total
    if offer.final:
        beyond = running_micros(tariff, 0, so_far_ms + offer.length_ms + L_MS + quantum_s * 1_000)
        assert beyond > interval.posted_micros + held * YUAN + scope.left_micros


def test_a_scope_in_breach_is_offered_nothing() -> None:
    """Not even what the open lease still holds: facts have gone past the cap."""
    scope = account(60, posted=61, pending=1)
    assert scope.in_breach
    interval = Interval(1, NOW.utc_ms - 61_000, 61 * YUAN)
    assert offer_lease(SECOND, interval, lease(1), (scope,), NOW, 1_000, L_MS, 0) is None


def test_a_cap_lowered_under_what_is_promised_is_no_breach_and_is_offered_nothing() -> None:
    """What is promised can be cut short: the lease is left what the new cap allows."""
    scope = account(60, posted=20, pending=70)
    assert not scope.in_breach
    interval = Interval(1, NOW.utc_ms - 20_000, 20 * YUAN)
    open_now = lease(70)
    assert offer_lease(SECOND, interval, open_now, (scope,), NOW, 1_000, L_MS, 0) is None
    assert affordable_ms(SECOND, interval, open_now, (scope,), NOW, L_MS) == 40_000 - L_MS


def test_a_lease_is_left_as_it_is_while_the_caps_reach() -> None:
    """And has nothing left once facts are past them."""
    interval = Interval(1, NOW.utc_ms - 20_000, 20 * YUAN)
    open_now = lease(70)
    left_ms = open_now.end.utc_ms - NOW.utc_ms
    for scopes in ((account(90, posted=20, pending=70),), (account(None),)):
        assert affordable_ms(SECOND, interval, open_now, scopes, NOW, L_MS) == left_ms
    over = (account(10, posted=20, pending=70),)
    assert affordable_ms(SECOND, interval, open_now, over, NOW, L_MS) == 0


def test_a_cap_reached_to_the_micro_is_no_breach() -> None:
    """Both sides of the limit, and a scope without a cap is never in breach."""
    assert not account(60, posted=40, pending=20).in_breach
    assert not account(60, posted=54, pending=15, hold=6).in_breach
    assert account(60, posted=55, hold=6).in_breach
    assert not account(None, posted=10**6).in_breach
    assert account(None).left_micros is None


def test_without_any_cap_what_is_wanted_is_offered() -> None:
    """And reserved all the same."""
    offer = offer_lease(SECOND, None, None, (account(None),), NOW, 60_000, L_MS, 0)
    assert offer == Offer(60_000, 80 * YUAN, final=False)


def test_a_free_instance_needs_no_money() -> None:
    """A price of zero never runs out."""
    free = Tariff(0, 60)
    interval = Interval(1, NOW.utc_ms - 40_000, 0)
    for running in (None, interval):
        offer = offer_lease(free, running, None, (account(0),), NOW, 60_000, L_MS, 0)
        assert offer == Offer(60_000, 0, final=False)


@pytest.mark.parametrize(("cap", "length_ms"), [(50, 30_000), (49, None)])
def test_a_first_lease_is_as_long_as_the_shortest_or_none(cap: int, length_ms: int | None) -> None:
    """30 s and L = 20 s at 1 yuan a second: 50 yuan are enough, 49 are not."""
    offer = offer_lease(SECOND, None, None, (account(cap),), NOW, 60_000, L_MS, 30_000)
    assert (None if offer is None else offer.length_ms) == length_ms


def test_a_short_wish_is_no_reason_for_refusal() -> None:
    """Where less than the shortest is wanted, the wish is the measure."""
    offer = offer_lease(SECOND, None, None, (account(30),), NOW, 10_000, L_MS, 30_000)
    assert offer == Offer(10_000, 30 * YUAN, final=False)


def test_a_clock_set_back_does_not_make_running_free() -> None:
    """The interval goes on in the time that it is metered in, whatever the wall clock says now."""
    interval = Interval(1, NOW.utc_ms - 600_000, 600 * YUAN)
    back = Moment(NOW.utc_ms - 3_600_000, NOW.boot_ms, "boot")
    ahead = replace(interval, ahead_ms=3_600_000)
    expected = offer_lease(SECOND, interval, None, (account(None),), NOW, 60_000, L_MS, 0)
    assert expected == Offer(60_000, 80 * YUAN, final=False)
    assert offer_lease(SECOND, ahead, None, (account(None),), back, 60_000, L_MS, 0) == expected
    poor = (account(650, posted=600),)
    cut = offer_lease(SECOND, ahead, None, poor, back, 60_000, L_MS, 0)
    assert cut == Offer(30_000, 50 * YUAN, final=True)


def test_an_interval_that_has_not_begun_costs_from_its_beginning() -> None:
    """A start in our future, by a clock that was set back, is taken as now."""
    ahead = Interval(1, NOW.utc_ms + 5_000, 0)
    assert needed_micros(SECOND, ahead, NOW, 10_000, L_MS) == 30 * YUAN


def test_what_is_needed_never_falls_below_nothing() -> None:
    """More may be posted than running on would come to: an hour begun is paid."""
    hourly = Tariff(15 * YUAN, 3600)
    interval = Interval(1, NOW.utc_ms - 60_000, 30 * YUAN)
    assert needed_micros(hourly, interval, NOW, 60_000, L_MS) == 0


def test_an_end_of_another_boot_counts_by_the_wall_clock() -> None:
    """After a reboot the other clock means nothing."""
    rebooted = Moment(NOW.utc_ms + 59_999, 0, "next")
    assert not has_ended(lease(10), rebooted)
    assert has_ended(lease(10), rebooted.plus_ms(1))


@MANY
@given(
    tariff=st.builds(Tariff, st.integers(0, 10_000 * YUAN), st.sampled_from([1, 60, 3600])),
    scopes=st.lists(st.builds(account, st.none() | AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS), max_size=3),
    held=AMOUNTS,
    so_far_ms=st.none() | st.integers(0, 7_200_000),
    wanted_ms=st.integers(1, 3_600_000),
    latency_ms=st.integers(0, 300_000),
    shortest_ms=st.integers(0, 60_000),
)
def test_an_offer_is_the_longest_that_fits_every_scope(
    tariff: Tariff,
    scopes: list[Account],
    held: int,
    so_far_ms: int | None,
    wanted_ms: int,
    latency_ms: int,
    shortest_ms: int,
) -> None:
    """It never breaks a cap, is never shorter than it could be, and refusal means nothing fits."""
    posted = 0 if so_far_ms is None else running_micros(tariff, 0, so_far_ms)
    interval = None if so_far_ms is None else Interval(1, NOW.utc_ms - so_far_ms, posted)
    left = [scope.left_micros for scope in scopes if scope.left_micros is not None]

    def fits(length_ms: int) -> bool:
        total = running_micros(tariff, 0, (so_far_ms or 0) + length_ms + latency_ms)
        return all(free >= max(total - posted - held * YUAN, 0) for free in left)

    offer = offer_lease(
        tariff, interval, lease(held), tuple(scopes), NOW, wanted_ms, latency_ms, shortest_ms
    )
    if offer is None:
        assert not fits(min(shortest_ms, wanted_ms))
        return
    assert fits(offer.length_ms)
    assert min(shortest_ms, wanted_ms) <= offer.length_ms <= wanted_ms
    assert offer.final == (offer.length_ms < wanted_ms)
    assert offer.increment_micros == max(
        needed_micros(tariff, interval, NOW, offer.length_ms, latency_ms) - held * YUAN, 0
    )
    if offer.final:
        assert not fits(offer.length_ms + 1)


# --------------------------------------------------------------------------- by the clock


def in_shanghai(clock: str) -> Moment:
    """A time of 2026-11-25 there."""
    hours, minutes = map(int, clock.split(":"))
    return Moment(MIDNIGHT_MS + hours * HOUR_MS + minutes * 60_000, 0, "boot")


NIGHTLY = Tariff(20 * YUAN, discounts=(Discount(500, Window(23 * 3_600, 7 * 3_600)),))


def test_a_lease_over_the_end_of_the_night_takes_each_price_for_its_part() -> None:
    """Half an hour at 10, half an hour at 20."""
    assert needed_micros(NIGHTLY, None, in_shanghai("06:30"), HOUR_MS - L_MS, L_MS) == 15 * YUAN
    offer = offer_lease(NIGHTLY, None, None, (account(10),), in_shanghai("06:30"), HOUR_MS, L_MS, 0)
    assert offer == Offer(HOUR_MS * 3 // 4 - L_MS, 10 * YUAN, final=True)


def test_a_rise_that_is_announced_is_reserved_before_it_comes() -> None:
    """Not only once it is seen."""
    now = in_shanghai("06:30")
    tariff = replace(SECOND, changes=(PriceChange(now.utc_ms + 10_000, 2 * 3_600 * YUAN),))
    assert needed_micros(tariff, None, now, 20_000, 0) == 30 * YUAN


def test_an_hour_that_may_begin_after_the_night_is_reserved_at_the_days_price() -> None:
    """The start call is still to come, and the price is that of the instant when rent begins."""
    hourly = replace(NIGHTLY, quantum_s=3_600)
    assert needed_micros(hourly, None, in_shanghai("06:59"), 600_000, L_MS) == 20 * YUAN
    assert needed_micros(hourly, None, in_shanghai("05:00"), 600_000, L_MS) == 10 * YUAN
    clock = replace(hourly, by_clock=True)
    assert needed_micros(clock, None, in_shanghai("06:59"), 600_000, L_MS) == 30 * YUAN


def test_an_hour_ends_earlier_by_what_is_not_known_of_its_beginning() -> None:
    """L and the uncertainty of the start lie before the boundary."""
    hourly = Tariff(15 * YUAN, 3_600)
    started_ms = NOW.utc_ms - 3_000_000
    interval = Interval(1, started_ms, 15 * YUAN, earliest_ms=started_ms - 60_000)
    offer = offer_lease(hourly, interval, lease(0), (account(20, 15),), NOW, 900_000, L_MS, 0)
    assert offer == Offer(600_000 - L_MS - 60_000, 0, final=True)


def test_an_earliest_start_after_the_start_is_the_start() -> None:
    """It was set by a clock that jumped."""
    interval = Interval(1, NOW.utc_ms - 10_000, 10 * YUAN, earliest_ms=NOW.utc_ms)
    assert needed_micros(SECOND, interval, NOW, 10_000, L_MS) == 30 * YUAN


@pytest.mark.parametrize(
    ("scopes", "runway"),
    [
        ((), 90_000),
        ((account(None),), 90_000),
        ((account(1_000),), 90_000),
        ((account(70), account(1_000)), 50_000),
        ((account(20),), 0),
        ((account(0),), -20_000),
        ((account(10, posted=11),), None),
    ],
)
def test_the_runway_ends_where_the_tightest_cap_bites(
    scopes: tuple[Account, ...], runway: int | None
) -> None:
    """L taken off; in breach there is none at all."""
    assert runway_ms(SECOND, None, None, scopes, NOW, 90_000, L_MS) == runway


@pytest.mark.parametrize(
    ("tariff", "ran_ms", "posted", "left_ms"),
    [
        (Tariff(15 * YUAN, 3_600), 3_000_000, 15 * YUAN, 600_000 - L_MS - 5_000),
        (Tariff(15 * YUAN, 3_600), 3_590_000, 15 * YUAN, 0),
        (Tariff(15 * YUAN, 3_600), 3_610_000, 15 * YUAN, 0),
        (Tariff(3_600 * YUAN), 10_000, 10 * YUAN, 0),
        (Tariff(3_600 * YUAN, minimum_s=600), 10_000, 600 * YUAN, 590_000 - L_MS - 5_000),
        (Tariff(0), 10_000, 0, 1_000),
        (Tariff(1, 3_600), 3_000_000, 1, 600_000 - L_MS - 5_000),
    ],
)
def test_what_is_left_of_a_paid_hour_is_there_for_nothing(
    tariff: Tariff, ran_ms: int, posted: int, left_ms: int
) -> None:
    """Less L, and less 5 s that are not known of its beginning; a stage that fits may have it."""
    started_ms = NOW.utc_ms - ran_ms
    interval = Interval(1, started_ms, posted, earliest_ms=started_ms - 5_000)
    assert paid_left_ms(tariff, interval, NOW, L_MS) == left_ms


@MANY
@given(
    case=CASES,
    cap=st.integers(0, 300),
    unsure_ms=st.none() | st.integers(0, 100_000),
    wanted_ms=st.integers(1, 30 * HOUR_MS),
)
def test_an_offer_is_the_longest_whatever_the_tariff(
    case: tuple[Tariff, int, int], cap: int, unsure_ms: int | None, wanted_ms: int
) -> None:
    """What it needs is free; a millisecond more would not be."""
    tariff, start_ms, ran_ms = case
    now = Moment(start_ms + ran_ms, 0, "boot")
    interval = None
    if unsure_ms is not None:
        posted = running_micros(tariff, start_ms, now.utc_ms)
        interval = Interval(1, start_ms, posted, earliest_ms=start_ms - unsure_ms)
    offer = offer_lease(tariff, interval, None, (account(cap),), now, wanted_ms, L_MS, 0)
    if offer is None:
        assert needed_micros(tariff, interval, now, 0, L_MS) > cap * YUAN
        return
    needed = needed_micros(tariff, interval, now, offer.length_ms, L_MS)
    assert offer.increment_micros == needed <= cap * YUAN
    if offer.final:
        assert needed_micros(tariff, interval, now, offer.length_ms + 1, L_MS) > cap * YUAN


# --------------------------------------------------------------------------- one by one


def test_what_a_lease_still_holds_is_what_was_not_charged() -> None:
    """Reserved less consumed."""
    assert replace(lease(50), consumed_micros=20 * YUAN).remaining_micros == 30 * YUAN


def test_what_the_lease_holds_lengthens_the_last_one() -> None:
    """Fifty held and ten free are sixty seconds, L among them."""
    interval = Interval(1, NOW.utc_ms - 60_000, 60 * YUAN)
    scopes = (account(120, posted=60, pending=50),)
    offer = offer_lease(SECOND, interval, lease(50), scopes, NOW, 60_000, L_MS, 0)
    assert offer == Offer(40_000, 10 * YUAN, final=True)


def test_of_the_beginnings_that_may_be_the_dearest_sets_the_length() -> None:
    """An hour that may begin after the night does not fit into ten yuan."""
    hourly = replace(NIGHTLY, quantum_s=3_600)
    now = in_shanghai("06:59")
    assert offer_lease(hourly, None, None, (account(19),), now, 600_000, L_MS, 60_000) is None
    offer = offer_lease(hourly, None, None, (account(20),), now, 600_000, L_MS, 60_000)
    assert offer == Offer(600_000, 20 * YUAN, final=False)


@pytest.mark.parametrize(("started", "needed"), [("06:00", 20), ("05:59", 10)])
def test_the_second_hour_may_begin_after_the_night_too(started: str, needed: int) -> None:
    """It began at six or up to half a minute before; its second hour costs what seven o'clock says.

    A minute earlier the second hour begins before the night is over in any case.
    """
    hourly = replace(NIGHTLY, quantum_s=3_600)
    began_ms = in_shanghai(started).utc_ms
    interval = Interval(1, began_ms, 10 * YUAN, earliest_ms=began_ms - 30_000)
    assert needed_micros(hourly, interval, in_shanghai("06:30"), 1_800_000, L_MS) == needed * YUAN


def test_on_the_clock_a_beginning_after_the_night_has_a_dear_first_hour() -> None:
    """However long before it may have begun; the others are the clock's in any case."""
    free = Discount(0, Window(0, 6 * 3_600 + 2_700))
    tariff = Tariff(20 * YUAN, 3_600, by_clock=True, discounts=(free,))
    interval = Interval(1, in_shanghai("07:00").utc_ms, 0, in_shanghai("05:30").utc_ms)
    assert needed_micros(tariff, interval, in_shanghai("07:00"), 600_000, L_MS) == 40 * YUAN


@pytest.mark.parametrize(
    ("cap", "left_ms"), [(None, 60_000), (160, 60_000), (100, 20_000), (80, 0), (79, 0), (59, 0)]
)
def test_a_lease_is_cut_to_what_a_lowered_cap_still_allows(cap: int | None, left_ms: int) -> None:
    """Sixty are spent and eighty held; L comes off what is left, in breach nothing is."""
    interval = Interval(1, NOW.utc_ms - 60_000, 60 * YUAN)
    scopes = (account(cap, posted=60, pending=80),)
    assert affordable_ms(SECOND, interval, lease(80), scopes, NOW, L_MS) == left_ms
