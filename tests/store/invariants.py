"""The invariants of the books, to be checked around every ledger call in the tests.

The sums are made here, row by row: what is checked must not be asked to check itself.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.store import ledger
from costguard.store.ledger import DoesNotFit
from costguard.store.models import Job, LeaseRow, LedgerEntry, PowerInterval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest
    from sqlalchemy.orm import Session

CALLS = ("reserve", "charge", "adjust", "settle")


def check_books(session: Session) -> None:
    """Everything that must hold of the ledger after any call, granted or not (I3 to I5)."""
    session.flush()
    assert ledger.broken_links(session) == [], "I5: the chain must hold"
    entries = session.scalars(select(LedgerEntry)).all()
    held: Counter[int | None] = Counter()
    posted: Counter[int | None] = Counter()
    for entry in entries:
        assert 0 <= entry.covered_micros <= max(entry.amount_micros, 0)
        held[entry.lease_id] += held_micros(entry)
        if entry.kind in ("charge", "adjust"):
            posted[entry.interval_id] += entry.amount_micros
    for lease in session.scalars(select(LeaseRow)):
        assert held[lease.id] >= 0, "a lease is never charged beyond its reservation"
        assert lease.state == "open" or held[lease.id] == 0, "I4: a settled lease holds nothing"
        assert ledger.lease_remaining_micros(session, lease.id) == held[lease.id]
    assert held[None] == 0, "what no lease reserved cannot be consumed"
    for interval in session.scalars(select(PowerInterval)):
        assert posted[interval.id] == interval.posted_micros, "I3: each second once, none forgotten"


def held_micros(entry: LedgerEntry) -> int:
    """What one entry adds to its lease's reservation."""
    if entry.kind == "charge":
        return -entry.covered_micros
    return {"reserve": entry.amount_micros, "settle": -entry.amount_micros}.get(entry.kind, 0)


def committed_micros(entries: Iterable[LedgerEntry]) -> int:
    """Posted + pending of these entries, for the left side of I1."""
    return sum(
        held_micros(entry) + (entry.amount_micros if entry.kind in ("charge", "adjust") else 0)
        for entry in entries
    )


def instrument(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> list[str]:
    """Wrap every public ledger call, here and where it was imported; returns the calls made."""
    made: list[str] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def checked(session: Session, *args: Any, **options: Any) -> Any:
            check_books(session)
            try:
                result = call(session, *args, **options)
            except DoesNotFit:
                check_books(session)
                raise
            check_books(session)
            made.append(name)
            if name == "reserve":
                check_cap(session, *args)
            return result

        return checked

    for name in CALLS:
        checked = wrapped(name, getattr(ledger, name))
        for module in (ledger, *modules):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, checked)
    return made


def check_cap(session: Session, job: Any, lease: Any, _increment: int, caps: Any, *_: Any) -> None:
    """I1: after a grant, no scope has promised more than its cap."""
    entries = session.scalars(select(LedgerEntry)).all()
    jobs = session.scalars(select(Job)).all()
    own = [entry for entry in entries if entry.job_id == job.id]
    assert committed_micros(own) + job.hold_micros <= job.cap_micros, "I1: job"
    project_cap = (caps.project_micros or {}).get(job.project)
    if project_cap is not None:
        own = [entry for entry in entries if entry.project == job.project]
        hold = sum(each.hold_micros for each in jobs if each.project == job.project)
        assert committed_micros(own) + hold <= project_cap, "I1: project"
    if caps.month_micros is not None:
        hold = sum(each.hold_micros for each in jobs)
        for month in lease.months.split(","):
            assert month_micros(session, entries, month) + hold <= caps.month_micros, "I1: month"


def month_micros(session: Session, entries: Iterable[LedgerEntry], month: str) -> int:
    """What was charged in a month, and all that open leases which may touch it still hold."""
    touching = {
        lease.id
        for lease in session.scalars(select(LeaseRow).where(LeaseRow.state == "open"))
        if month in lease.months.split(",")
    }
    return sum(
        (entry.amount_micros if entry.kind in ("charge", "adjust") and entry.month == month else 0)
        + (held_micros(entry) if entry.lease_id in touching else 0)
        for entry in entries
    )
