"""Lease arithmetic: what must be reserved before running may go on, and how far the cap reaches.

Prepaid telephony's model (RFC 8506): credit is reserved before it is spent, and service runs only
while a reservation lives. A lease to `end` reserves the tariff's exact price of running until
`end + L`, where L is the longest time from "stop" to "meter stopped".
"""

from __future__ import annotations

from dataclasses import dataclass

from costguard.core.moment import MS_PER_S, Moment, elapsed_ms, has_passed, ms_until
from costguard.core.tariff import Tariff, longest_ms, price_points_ms, running_micros


@dataclass(frozen=True, slots=True)
class Account:
    """What one scope (job, project or month) has spent, promised and may spend, in micro-yuan."""

    scope: str
    cap_micros: int | None  # None: no cap set
    posted_micros: int
    pending_micros: int
    hold_micros: int  # F: what keeping the disks is still expected to cost

    @property
    def committed_micros(self) -> int:
        """The left side of invariant I1: posted + pending + F."""
        return self.posted_micros + self.pending_micros + self.hold_micros

    @property
    def left_micros(self) -> int | None:
        """What may still be promised; negative in breach; None without a cap."""
        return None if self.cap_micros is None else self.cap_micros - self.committed_micros

    @property
    def in_breach(self) -> bool:
        """Whether facts have gone past the cap; what is merely promised can still be cut short."""
        return self.cap_micros is not None and (
            self.posted_micros + self.hold_micros > self.cap_micros
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """One power interval as the ledger meters it."""

    id: int
    started_ms: int  # UTC; the platform's word, bounded by what we saw ourselves
    posted_micros: int
    earliest_ms: int | None = None  # before when it surely had not begun; None: `started_ms`
    ahead_ms: int = 0  # how far the time it is metered in is ahead of the wall clock


@dataclass(frozen=True, slots=True)
class Lease:
    """Running time whose price is reserved."""

    id: int
    seq: int
    started: Moment
    end: Moment
    reserved_micros: int
    consumed_micros: int
    final: bool  # the budget allows no further one
    cut: int = 0  # how often its end was brought forward

    @property
    def remaining_micros(self) -> int:
        """What is reserved and not yet charged."""
        return self.reserved_micros - self.consumed_micros


@dataclass(frozen=True, slots=True)
class Offer:
    """A lease that fits: its length, what it adds to the reservation, whether it is the last."""

    length_ms: int
    increment_micros: int
    final: bool


def needed_micros(
    tariff: Tariff, interval: Interval | None, now: Moment, length_ms: int, latency_ms: int
) -> int:
    """What running on until `now + length + L` still costs beyond what is posted for this interval.

    Every part is priced at what is in force then. Without an interval the meter is taken to start
    now: the call that starts it is still to come. Where it is not known to the second when rent
    began, the dearest beginning counts: an hour must not begin that was thought to be later.
    """
    end_ms = _now_ms(interval, now) + length_ms + latency_ms
    starts = _starts_ms(tariff, interval, now, end_ms)
    total = max(running_micros(tariff, start_ms, end_ms) for start_ms in starts)
    return max(total - _posted_micros(interval), 0)


def offer_lease(
    tariff: Tariff,
    interval: Interval | None,
    lease: Lease | None,
    accounts: tuple[Account, ...],
    now: Moment,
    wanted_ms: int,
    latency_ms: int,
    shortest_ms: int,
) -> Offer | None:
    """The longest lease up to `wanted_ms` that fits every scope, or None if none worth having does.

    A renewal reserves only the increment: what the open lease still holds counts as available.
    An offer shorter than wanted is the final one.
    """
    free = _free_micros(accounts)
    if free is not None and free < 0:
        return None
    length_ms = runway_ms(tariff, interval, lease, accounts, now, wanted_ms, latency_ms)
    if length_ms is None or length_ms < min(shortest_ms, wanted_ms):
        return None
    needed = needed_micros(tariff, interval, now, length_ms, latency_ms)
    increment = max(needed - _held_micros(lease), 0)
    assert free is None or increment <= free, "an offer must fit what is free"
    return Offer(length_ms, increment, final=length_ms < wanted_ms)


def aside_micros(
    tariff: Tariff,
    lease: Lease | None,
    accounts: tuple[Account, ...],
    offer: Offer,
    now: Moment,
    for_ms: int,
    latency_ms: int,
) -> int:
    """What to reserve beside a first lease for an instance that its create call makes too many.

    Its price for `for_ms`, as far as every scope has room beside the offer: a cap too small for
    both still rents. What a lease that is open already holds beyond its own need counts. The first
    renewal has the use of it, so that it costs no running time.
    """
    wanted = running_micros(tariff, now.utc_ms, now.utc_ms + for_ms)
    needed = needed_micros(tariff, None, now, offer.length_ms, latency_ms)
    wanted = max(wanted - max(_held_micros(lease) - needed, 0), 0)
    free = _free_micros(accounts)
    return wanted if free is None else min(wanted, free - offer.increment_micros)


def affordable_ms(
    tariff: Tariff,
    interval: Interval | None,
    lease: Lease,
    accounts: tuple[Account, ...],
    now: Moment,
    latency_ms: int,
) -> int:
    """How much longer the open lease may run and be stopped within every cap as it is now.

    Never more than it has left: less only where a cap was lowered, or a bill was higher than the
    books, since it was granted.
    """
    left_ms = ms_until(lease.end, now)
    if (_free_micros(accounts) or 0) >= 0:
        return left_ms
    reach_ms = runway_ms(tariff, interval, lease, accounts, now, left_ms, latency_ms)
    return max(reach_ms or 0, 0)


def runway_ms(
    tariff: Tariff,
    interval: Interval | None,
    lease: Lease | None,
    accounts: tuple[Account, ...],
    now: Moment,
    at_most_ms: int,
    latency_ms: int,
) -> int | None:
    """How long from now it may run, and then be stopped within L, before the tightest cap bites.

    `at_most_ms` if no cap bites within that; less than 0 if L itself no longer fits; None in
    breach, where nothing more may run at all. What the open lease still holds is there to be used.
    """
    free = _free_micros(accounts)
    if free is None:
        return at_most_ms
    if any(account.in_breach for account in accounts):
        return None
    available = free + _held_micros(lease)  # free alone may be below 0: a cap was lowered
    reach_ms = _reach_ms(tariff, interval, now, available, at_most_ms + latency_ms)
    return min(at_most_ms, reach_ms - latency_ms)


def _free_micros(accounts: tuple[Account, ...]) -> int | None:
    """What the tightest scope may still promise; None without any cap."""
    left = (account.left_micros for account in accounts)
    return min((micros for micros in left if micros is not None), default=None)


def _held_micros(lease: Lease | None) -> int:
    return 0 if lease is None else lease.remaining_micros


def paid_left_ms(tariff: Tariff, interval: Interval, now: Moment, latency_ms: int) -> int:
    """How much longer it may run, and be stopped, without beginning a quantum that is not paid yet.

    With a tariff per hour this is what is left of the hour, less L and less what is not known of
    its beginning; a queued stage that fits may have it for nothing. Per second it is 0.
    """
    horizon_ms = latency_ms + tariff.quantum_ms + tariff.minimum_s * MS_PER_S
    paid_ms = _reach_ms(tariff, interval, now, 0, horizon_ms)
    return max(paid_ms - latency_ms, 0)


def _reach_ms(
    tariff: Tariff, interval: Interval | None, now: Moment, available_micros: int, at_most_ms: int
) -> int:
    """How long from now the meter may run on `available_micros`, at most `at_most_ms`."""
    now_ms = _now_ms(interval, now)
    total = _posted_micros(interval) + available_micros
    limit_ms = now_ms + at_most_ms
    ends = (
        start_ms + longest_ms(tariff, start_ms, total, limit_ms - start_ms)
        for start_ms in _starts_ms(tariff, interval, now, limit_ms)
    )
    return min(ends) - now_ms


def _now_ms(interval: Interval | None, now: Moment) -> int:
    """Now, in the time that the interval is metered in; never before it began."""
    if interval is None:
        return now.utc_ms
    return max(now.utc_ms + interval.ahead_ms, interval.started_ms)


def _posted_micros(interval: Interval | None) -> int:
    return 0 if interval is None else interval.posted_micros


def _starts_ms(
    tariff: Tariff, interval: Interval | None, now: Moment, end_ms: int
) -> tuple[int, ...]:
    """Of the instants at which rent may have begun, those of which one is the dearest.

    The earliest begins the most quanta. A later one can cost more only where it has a quantum begin
    right at a change of price, so one for each change is enough: the first that does so, as those
    after it begin fewer. On the clock only the first quantum moves with the start. What a start
    costs at least has the price of its first instant, so there each change counts as it is, too.
    """
    if interval is None:
        earliest_ms, latest_ms = now.utc_ms, now.utc_ms + tariff.quantum_ms
    else:
        latest_ms = interval.started_ms
        told_ms = interval.earliest_ms
        earliest_ms = latest_ms if told_ms is None else min(told_ms, latest_ms)
    points_ms = tuple(price_points_ms(tariff, earliest_ms, end_ms))
    shifted = [
        point_ms if tariff.by_clock else earliest_ms + (point_ms - earliest_ms) % tariff.quantum_ms
        for point_ms in points_ms
    ]
    if tariff.minimum_s:
        shifted += points_ms
    return (earliest_ms, *(start_ms for start_ms in shifted if start_ms <= latest_ms))


def is_due(lease: Lease, now: Moment) -> bool:
    """Whether half of the lease is used up: the time to renew, while a failure can be retried."""
    length_ms = elapsed_ms(lease.started, lease.end)
    return ms_until(lease.end, now) <= length_ms // 2


def has_ended(lease: Lease, now: Moment) -> bool:
    """Whether the lease's end has passed by either clock."""
    return has_passed(lease.end, now)
