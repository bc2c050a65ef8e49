from __future__ import annotations

from hypothesis import given, strategies as st

from costguard.core.lease import Account, Interval, Lease, has_ended, is_due, offer_lease
from costguard.core.moment import Moment
from costguard.core.tariff import Tariff, running_micros

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
    interval = Interval(1, started_ms, running_micros(tariff, so_far_ms))
    scope = account(cap, posted, held, hold)
    offer = offer_lease(tariff, interval, lease(held), (scope,), NOW, wanted_ms, L_MS, 0)
    if offer is None:
        return
    assert scope.left_micros is not None
    assert 0 <= offer.increment_micros <= scope.left_micros
    total = running_micros(tariff, so_far_ms + offer.length_ms + L_MS)
    assert interval.posted_micros + held * YUAN + offer.increment_micros >= total
    if offer.final:
        beyond = running_micros(tariff, so_far_ms + offer.length_ms + L_MS + quantum_s * 1_000)
        assert beyond > interval.posted_micros + held * YUAN + scope.left_micros
