"""The invariants of the books, to be checked around every ledger call in the tests."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from costguard.store import ledger
from costguard.store.models import LeaseRow, LedgerEntry, PowerInterval

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from sqlalchemy.orm import Session

CALLS = ("reserve", "charge", "adjust", "settle")


def check_books(session: Session) -> None:
    """Everything that must hold of the ledger after any call, granted or not (I3 to I5)."""
    session.flush()
    assert ledger.broken_links(session) == [], "I5: the chain must hold"
    for lease in session.scalars(select(LeaseRow)):
        rest = ledger.lease_remaining_micros(session, lease.id)
        assert rest >= 0, "a lease is never charged beyond its reservation"
        assert lease.state == "open" or rest == 0, "I4: a settled lease holds nothing"
    for interval in session.scalars(select(PowerInterval)):
        posted = session.scalar(
            select(func.coalesce(func.sum(LedgerEntry.amount_micros), 0)).where(
                LedgerEntry.interval_id == interval.id
            )
        )
        assert posted == interval.posted_micros, "I3: each second once, and none forgotten"


def instrument(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> list[str]:
    """Wrap every public ledger call, here and where it was imported; returns the calls made."""
    made: list[str] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def checked(session: Session, *args: Any, **options: Any) -> Any:
            check_books(session)
            result = call(session, *args, **options)
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
    for account in ledger.accounts(session, job, caps, tuple(lease.months.split(","))):
        left = account.left_micros
        assert left is None or left >= 0, f"I1: {account}"
