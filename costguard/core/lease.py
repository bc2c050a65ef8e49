"""Lease arithmetic: what must be reserved before running may go on, and how far the cap reaches.

Prepaid telephony's model (RFC 8506): credit is reserved before it is spent, and service runs only
while a reservation lives. A lease to `end` reserves the tariff's exact price of running until
`end + L`, where L is the longest time from "stop" to "meter stopped".
"""

from __future__ import annotations

from dataclasses import dataclass

from costguard.core.moment import MS_PER_S, Moment, elapsed_ms, has_passed, ms_until
from costguard.core.tariff import Tariff, longest_ms, running_micros


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

    Without an interval the meter is taken to start now: the call that starts it is still to come.
    """
    if interval is None:
        return running_micros(tariff, length_ms + latency_ms)
    total = running_micros(tariff, _so_far_ms(tariff, interval, now) + length_ms + latency_ms)
    return max(total - interval.posted_micros, 0)


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
        reach_ms = _reach_ms(tariff, interval, now, free + held)
        if reach_ms is not None:
            length_ms = min(wanted_ms, reach_ms - latency_ms)
    if length_ms < min(shortest_ms, wanted_ms):
        return None
    needed = needed_micros(tariff, interval, now, length_ms, latency_ms)
    increment = max(needed - held, 0)
    assert free is None or increment <= free, "an offer must fit what is free"
    return Offer(length_ms, increment, final=length_ms < wanted_ms)


def _reach_ms(
    tariff: Tariff, interval: Interval | None, now: Moment, available_micros: int
) -> int | None:
    """How long from now the meter may run on `available_micros`; None if running is free."""
    if interval is None:
        return longest_ms(tariff, available_micros)
    whole_ms = longest_ms(tariff, interval.posted_micros + available_micros)
    if whole_ms is None:
        return None
    return whole_ms - _so_far_ms(tariff, interval, now)


def _so_far_ms(tariff: Tariff, interval: Interval, now: Moment) -> int:
    """How long the interval has run, by the wall clock or, if that was set back, by the books.

    What is posted was metered on a clock that cannot be set back. Of its last quantum it is not
    known how much is used up, so that quantum is not counted.
    """
    wall_ms = now.utc_ms - interval.started_ms
    paid_ms = longest_ms(tariff, interval.posted_micros) or 0
    return max(wall_ms, paid_ms - tariff.quantum_s * MS_PER_S, 0)


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
