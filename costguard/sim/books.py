"""Tier 1's store: the books in memory, under the same rules as the ledger in the database.

Reserve, charge, settle, adjust; a charge consumes its lease's reservation; no grant leaves a scope
above its cap (I1); facts are always recorded. Small enough to be read in one sitting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costguard.core.lease import Account, Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from costguard.core.moment import Moment
    from costguard.store.ledger import Caps


class DoesNotFit(Exception):
    """A grant would leave a scope above its cap; nothing was reserved."""


@dataclass
class OpenLease:
    """The lease of one job, renewed in place."""

    id: int
    seq: int
    started: Moment
    end: Moment
    armed_ms: int  # UTC: how far every enforcer has been told
    final: bool
    remaining_micros: int = 0
    cut: int = 0  # how often its end was brought forward

    def as_core(self) -> Lease:
        """As the arithmetic takes it."""
        return Lease(
            self.id,
            self.seq,
            self.started,
            self.end,
            self.remaining_micros,
            0,
            self.final,
            self.cut,
        )


@dataclass
class Purse:
    """What one job has spent, promised and may spend."""

    id: int
    name: str
    cap_micros: int
    hold_micros: int = 0
    posted_micros: int = 0
    overrun_micros: int = 0
    project: str = ""
    lease: OpenLease | None = None
    doubles_micros: int = 0  # of its leases, what a second instance of its own call has used

    @property
    def pending_micros(self) -> int:
        """What its lease still holds."""
        return 0 if self.lease is None else self.lease.remaining_micros


@dataclass(frozen=True)
class Entry:
    """One line of the books: never changed."""

    kind: str
    purse: int
    amount_micros: int
    covered_micros: int = 0
    part: int = 0  # the power interval, 0 where none
    lease_of: int = 0  # whose lease covers it


@dataclass
class Books:
    """Every job's purse and every entry."""

    caps: Caps
    purses: dict[int, Purse] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    on_entry: Callable[[Entry], None] = lambda entry: None
    leases: int = 0
    parts: int = 0

    def accounts(self, purse: Purse) -> tuple[Account, ...]:
        """The job's, its project's and the month's account, as of now."""
        own = Account(
            f"job {purse.name}",
            purse.cap_micros,
            purse.posted_micros,
            purse.pending_micros + purse.doubles_micros,
            purse.hold_micros,
        )
        found = [own]
        cap_micros = (self.caps.project_micros or {}).get(purse.project)
        if cap_micros is not None:
            mates = [each for each in self.purses.values() if each.project == purse.project]
            found.append(_sum_of(f"project {purse.project}", cap_micros, mates))
        if self.caps.month_micros is not None:
            found.append(_sum_of("month", self.caps.month_micros, self.purses.values()))
        return tuple(found)

    def reserve(self, purse: Purse, increment_micros: int) -> None:
        """Promise so much more to the open lease, or raise DoesNotFit (I1)."""
        assert purse.lease is not None, "what is reserved belongs to a lease"
        for account in self.accounts(purse):
            left = account.left_micros
            if left is not None and increment_micros > left:
                raise DoesNotFit(account.scope)
        purse.lease.remaining_micros += increment_micros
        self._append(Entry("reserve", purse.id, increment_micros))

    def charge(
        self,
        purse: Purse,
        amount_micros: int,
        part: int,
        *,
        disk: bool = False,
        maker: Purse | None = None,
    ) -> None:
        """Record what was metered; what no lease covers is the overrun.

        A duplicate has no lease: the one of the job whose call made it (`maker`) covers it.
        """
        covered = 0
        if not disk and purse.lease is None and maker is not None and maker.lease is not None:
            covered = min(amount_micros, maker.lease.remaining_micros)
            maker.lease.remaining_micros -= covered
            maker.doubles_micros += covered
        if disk:
            purse.hold_micros = max(purse.hold_micros - amount_micros, 0)
        elif purse.lease is not None:
            covered = min(amount_micros, purse.lease.remaining_micros)
            purse.lease.remaining_micros -= covered
        purse.posted_micros += amount_micros
        if not disk:
            purse.overrun_micros += amount_micros - covered
        lender = purse if purse.lease is not None or maker is None else maker
        self._append(Entry("charge", purse.id, amount_micros, covered, part, lender.id))

    def adjust(self, purse: Purse, amount_micros: int, part: int) -> None:
        """Correct what was charged."""
        purse.posted_micros += amount_micros
        self._append(Entry("adjust", purse.id, amount_micros, 0, part))

    def settle(self, purse: Purse) -> None:
        """Give back what the lease did not use, and close it."""
        assert purse.lease is not None, "only an open lease is settled"
        rest, purse.lease = purse.lease.remaining_micros, None
        self._append(Entry("settle", purse.id, rest))

    def broken(self) -> list[str]:
        """Where sums and entries disagree."""
        found = []
        for purse in self.purses.values():
            own = [entry for entry in self.entries if entry.purse == purse.id]
            posted = sum(e.amount_micros for e in own if e.kind in ("charge", "adjust"))
            pending = sum(_held(entry) for entry in own)
            pending += sum(e.covered_micros for e in own if e.lease_of != e.purse)
            pending -= sum(
                e.covered_micros
                for e in self.entries
                if e.lease_of == purse.id and e.lease_of != e.purse
            )
            if posted != purse.posted_micros or pending != purse.pending_micros:
                found.append(f"the sums of {purse.name} are not those of its entries")
        return found

    def _append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.on_entry(entry)


def _sum_of(scope: str, cap_micros: int, purses: Collection[Purse]) -> Account:
    return Account(
        scope,
        cap_micros,
        sum(each.posted_micros for each in purses),
        sum(each.pending_micros for each in purses),
        sum(each.hold_micros for each in purses),
    )


def _held(entry: Entry) -> int:
    if entry.kind == "charge":
        return -entry.covered_micros
    return {"reserve": entry.amount_micros, "settle": -entry.amount_micros}.get(entry.kind, 0)
