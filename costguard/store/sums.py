"""Sums over the ledger, by the kind of its entries: what an account is made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, bindparam, func, select

from costguard.store.models import LeaseRow, LedgerSum

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

# Kind, amount and covered part, each summed up over the entries of that kind.
Sums = Sequence[tuple[str, int, int]]


def by_kind(session: Session, **scope: int | str) -> Sums:
    """Kind, amount and covered part of all entries in `scope`.

    Nothing is flushed for it: an append is in the database when it returns.
    """
    rows = session.connection().execute(_sums(*scope), scope)
    return [(kind, amount, covered) for kind, amount, covered in rows]


@cache
def _sums(*scope: str) -> Select[Any]:
    """The statement for a scope of these columns: put together once, carried out on every pass."""
    sums = LedgerSum.__table__.c
    return (
        select(sums.kind, func.sum(sums.amount_micros), func.sum(sums.covered_micros))
        .where(*(sums[name] == bindparam(name) for name in scope))
        .group_by(sums.kind)
    )


def by_kind_of_month(session: Session, month: str) -> Sums:
    """The same of the open leases that may touch `month`: one that crosses counts in both."""
    rows = session.execute(_OF_MONTH, {"month": month})
    return [(kind, amount, covered) for kind, amount, covered in rows]


_OF_MONTH = (
    select(LedgerSum.kind, func.sum(LedgerSum.amount_micros), func.sum(LedgerSum.covered_micros))
    .join(LeaseRow, LeaseRow.id == LedgerSum.lease_id)
    .where(
        LeaseRow.state == "open",
        func.instr("," + LeaseRow.months + ",", "," + bindparam("month", type_=String) + ",") > 0,
    )
    .group_by(LedgerSum.kind)
)


def posted(sums: Sums) -> int:
    """What was charged, corrections included."""
    return sum(amount for kind, amount, _ in sums if kind in ("charge", "adjust"))


def pending(sums: Sums) -> int:
    """What is reserved and neither charged nor settled."""
    return sum(held_micros(kind, amount, covered) for kind, amount, covered in sums)


def held_micros(kind: str, amount_micros: int, covered_micros: int) -> int:
    """What an entry of `kind` adds to its lease's reservation."""
    if kind == "charge":
        return -covered_micros
    return {"reserve": amount_micros, "settle": -amount_micros}.get(kind, 0)
