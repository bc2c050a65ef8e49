"""The ledger's entries as an export shows them, and as double entries between accounts.

Accounts: what a job has spent stands under Expenses and comes out of the platform's Wallet. What
is promised to a lease moves from Budget:Free to Budget:Reserved and back as it is used or settled,
so that the balance of a job's Reserved account is its `pending`, and that of its Expenses its
`posted`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.store.models import Instance, Job, LedgerEntry, PowerInterval

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

BATCH = 5_000
FREE = ("Assets", "Budget", "Free")
_NOT_IN_NAMES = re.compile(r"[^\w-]|_")


@dataclass(frozen=True, slots=True)
class Line:
    """One entry with the names that belong to it."""

    entry: LedgerEntry
    job: str
    provider: str | None
    instance: str | None
    interval_kind: str | None
    on: date  # in the budgets' time zone

    @property
    def reserved_micros(self) -> int:
        """What the entry adds to its job's reservation."""
        amount, covered = self.entry.amount_micros, self.entry.covered_micros
        return {"reserve": amount, "settle": -amount, "charge": -covered}.get(self.entry.kind, 0)

    @property
    def spent_micros(self) -> int:
        """What the entry adds to what its job has spent."""
        return self.entry.amount_micros if self.entry.kind in ("charge", "adjust") else 0


@dataclass(frozen=True, slots=True)
class Posting:
    """One side of a double entry: an account's name, part by part, and micro-yuan."""

    account: tuple[str, ...]
    micros: int


def ledger_lines(session: Session, zone: ZoneInfo) -> Iterator[Line]:
    """Every entry, oldest first, without ever holding them all."""
    query = (
        select(LedgerEntry, Job.name, Instance.provider, Instance.provider_id, PowerInterval.kind)
        .join(Job, LedgerEntry.job_id == Job.id)
        .outerjoin(PowerInterval, LedgerEntry.interval_id == PowerInterval.id)
        .outerjoin(Instance, PowerInterval.instance_id == Instance.id)
        .order_by(LedgerEntry.id)
        .execution_options(yield_per=BATCH)
    )
    for entry, job, provider, instance, kind in session.execute(query):
        on = datetime.fromtimestamp(entry.at_ms // 1000, tz=zone).date()
        yield Line(entry, job, provider, instance, kind, on)


def postings(line: Line) -> tuple[Posting, ...]:
    """The double entry of one line; its amounts come to zero."""
    found: list[Posting] = []
    job = f"Job{line.entry.job_id}-{account_part(line.job)}".rstrip("-")
    if line.spent_micros:
        kind = "Disk" if line.interval_kind == "disk" else "Gpu"
        phase = account_part(line.entry.phase or line.entry.kind).capitalize() or "Other"
        wallet = account_part(line.provider or "").capitalize() or "Unknown"
        found += [
            Posting(("Expenses", kind, job, phase), line.spent_micros),
            Posting(("Assets", "Wallet", wallet), -line.spent_micros),
        ]
    if line.reserved_micros:
        found += [
            Posting(("Assets", "Budget", "Reserved", job), line.reserved_micros),
            Posting(FREE, -line.reserved_micros),
        ]
    return tuple(found)


def account_part(name: str) -> str:
    """`name` as a part of an account's name: letters of any script, digits and hyphens.

    Two names may become one; what has to be told apart carries its number beside it.
    """
    return re.sub("-+", "-", _NOT_IN_NAMES.sub("-", name)).strip("-")


def one_line(text: str) -> str:
    """`text` without line breaks and other control characters, which would begin a new entry."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
