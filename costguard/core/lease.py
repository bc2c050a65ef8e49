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
        """Whether facts have gone past the cap: then nothing is granted any more."""
        return self.left_micros is not None and self.left_micros < 0


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
    held = lease.remaining_micros if lease is not None else 0
    free = min(
        (account.left_micros for account in accounts if account.left_micros is not None),
        default=None,
    )
    length_ms = wanted_ms
    if free is not None:
        if free < 0:
            return None
        reach_ms = _reach_ms(tariff, interval, now, free + held, wanted_ms + latency_ms)
        length_ms = min(wanted_ms, reach_ms - latency_ms)
    if length_ms < min(shortest_ms, wanted_ms):
        return None
    needed = needed_micros(tariff, interval, now, length_ms, latency_ms)
    increment = max(needed - held, 0)
    assert free is None or increment <= free, "an offer must fit what is free"
    return Offer(length_ms, increment, final=length_ms < wanted_ms)


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
    after it begin fewer. On the clock only the first quantum moves with the start.
    """
    if interval is None:
        earliest_ms, latest_ms = now.utc_ms, now.utc_ms + tariff.quantum_ms
    else:
        latest_ms = interval.started_ms
        told_ms = interval.earliest_ms
        earliest_ms = latest_ms if told_ms is None else min(told_ms, latest_ms)
    shifted = (
        point_ms if tariff.by_clock else earliest_ms + (point_ms - earliest_ms) % tariff.quantum_ms
        for point_ms in price_points_ms(tariff, earliest_ms, end_ms)
    )
    return (earliest_ms, *(start_ms for start_ms in shifted if start_ms <= latest_ms))


def is_due(lease: Lease, now: Moment) -> bool:
    """Whether half of the lease is used up: the time to renew, while a failure can be retried."""
    length_ms = elapsed_ms(lease.started, lease.end)
    return ms_until(lease.end, now) <= length_ms // 2


def has_ended(lease: Lease, now: Moment) -> bool:
    """Whether the lease's end has passed by either clock."""
    return has_passed(lease.end, now)


def worst_case_micros(account: Account) -> int:
    """The most this scope can still come to if every machine of ours burned down now."""
    return account.committed_micros
