"""The books: every function here appends entries inside the caller's transaction.

Invariants held here, whoever calls: no grant leaves posted + pending + F above a cap (I1), no
second is charged twice (unique keys and one cumulative figure per interval), nothing is changed
afterwards (I5: the database's triggers refuse it), and the entries form a hash chain.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, insert, select

from costguard.core.lease import Account
from costguard.core.money import yuan_text
from costguard.errors import CostguardError
from costguard.store import sums
from costguard.store.budgets import in_force
from costguard.store.head import GENESIS, Head
from costguard.store.models import (
    Base,
    Instance,
    Job,
    LeaseRow,
    LedgerEntry,
    LedgerSum,
    PowerInterval,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from sqlalchemy import ColumnElement, Row, Select
    from sqlalchemy.orm import Session

# Where an append leaves the new head for the store, which writes it down after the commit.
HEAD = "ledger_head"
ASIDE = "set aside: one create call may make two instances"
HASHED_FIELDS = (
    "at_ms",
    "job_id",
    "project",
    "month",
    "kind",
    "amount_micros",
    "covered_micros",
    "lease_id",
    "interval_id",
    "from_ms",
    "to_ms",
    "stage",
    "phase",
    "key",
    "note",
    "previous_hash",
)


class DoesNotFit(CostguardError):
    """A grant would leave a scope above its cap; nothing was reserved."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The caps beside the job's own: `None` where none is set."""

    month_micros: int | None = None  # of each month that has none of its own in `months`
    project_micros: Mapping[str, int] | None = None
    months: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a charge belongs on the report."""

    stage: int | None
    phase: str | None


# Built once: to put a statement together takes longer than to carry it out.
_HOLD = select(func.coalesce(func.sum(Job.hold_micros), 0))
_PROJECT_HOLD = _HOLD.where(Job.project == bindparam("project"))


def accounts(
    session: Session, job: Job, caps: Caps, months: tuple[str, ...]
) -> tuple[Account, ...]:
    """The job's, the project's and each touched month's account, as of this transaction."""
    return accounts_under(session, job, in_force(session, caps), months)


def accounts_under(
    session: Session, job: Job, caps: Caps, months: tuple[str, ...]
) -> tuple[Account, ...]:
    """The same, where the caps are those in force already."""
    booked = sums.by_kind(session, job_id=job.id)
    found = [
        Account(
            scope=f"job {job.name}",
            cap_micros=job.cap_micros,
            posted_micros=sums.posted(booked) + unbooked_micros(session, job.id),
            pending_micros=sums.pending(booked),
            hold_micros=job.hold_micros,
        )
    ]
    project_cap = (caps.project_micros or {}).get(job.project)
    if project_cap is not None:
        booked = sums.by_kind(session, project=job.project)
        found.append(
            Account(
                scope=f"project {job.project}",
                cap_micros=project_cap,
                posted_micros=sums.posted(booked) + unbooked_micros(session, project=job.project),
                pending_micros=sums.pending(booked),
                hold_micros=session.scalar(_PROJECT_HOLD, {"project": job.project}) or 0,
            )
        )
    for month in months:
        month_cap = (caps.months or {}).get(month, caps.month_micros)
        if month_cap is None:
            continue
        found.append(
            Account(
                scope=f"month {month}",
                cap_micros=month_cap,
                posted_micros=sums.posted(sums.by_kind(session, month=month))
                + unbooked_micros(session),
                pending_micros=sums.pending(sums.by_kind_of_month(session, month)),
                hold_micros=session.scalar(_HOLD) or 0,
            )
        )
    return tuple(found)


def posted_micros(
    session: Session,
    *,
    job_id: int | None = None,
    project: str | None = None,
    month: str | None = None,
    instance_id: int | None = None,
) -> int:
    """What was charged, corrections included: in all, or in the scope that is given."""
    query = select(func.coalesce(func.sum(LedgerSum.amount_micros), 0)).where(
        LedgerSum.kind.in_(("charge", "adjust")), *_scope(job_id, project, month)
    )
    if instance_id is not None:
        own = select(PowerInterval.id).where(PowerInterval.instance_id == instance_id)
        query = query.where(LedgerSum.interval_id.in_(own))
    return session.scalar(query) or 0


def unbooked_micros(session: Session, job_id: int | None = None, project: str | None = None) -> int:
    """What the platform has billed above the books, instance by instance, in the scope given.

    Until a period is closed and adjusted, the caps count the larger of the two.
    """
    keys = {"job_id": job_id, "project": project}
    given = {name: value for name, value in keys.items() if value is not None}
    return session.scalar(_unbooked(*given), given) or 0


@cache
def _unbooked(*scope: str) -> Select[Any]:
    """The statement for a scope of these columns: put together once, carried out on every pass."""
    posted = (
        select(func.coalesce(func.sum(PowerInterval.posted_micros), 0))
        .where(PowerInterval.instance_id == Instance.id)
        .scalar_subquery()
    )
    query = select(func.coalesce(func.sum(Instance.bill_micros - posted), 0)).where(
        Instance.bill_micros > posted
    )
    if "job_id" in scope:
        query = query.where(Instance.job_id == bindparam("job_id"))
    if "project" in scope:
        query = query.join(Job, Job.id == Instance.job_id)
        query = query.where(Job.project == bindparam("project"))
    return query


def posted_by_instance(session: Session, job_ids: Collection[int] | None = None) -> dict[int, int]:
    """What was posted for each instance that anything was posted for, of these jobs or of all."""
    query = (
        select(PowerInterval.instance_id, func.sum(LedgerSum.amount_micros))
        .join(PowerInterval, PowerInterval.id == LedgerSum.interval_id)
        .group_by(PowerInterval.instance_id)
    )
    if job_ids is not None:
        query = query.where(LedgerSum.job_id.in_(job_ids))
    found = session.execute(query)
    return {instance_id: posted for instance_id, posted in found}  # noqa: C416  (rows, to mypy)


def pending_micros(session: Session) -> int:
    """What is reserved and neither charged nor settled, in all: reserved - consumed - settled."""
    return sums.pending(sums.by_kind(session))


def pending_by_job(session: Session) -> dict[int, int]:
    """What each job has reserved and not used, where it has any; only an open lease holds some.

    A lease is its job's, whoever used it: a duplicate of the job's instance does too.
    """
    pending: dict[int, int] = {}
    for job_id, kind, amount, covered in session.execute(
        select(
            LeaseRow.job_id,
            LedgerSum.kind,
            func.sum(LedgerSum.amount_micros),
            func.sum(LedgerSum.covered_micros),
        )
        .join(LeaseRow, LeaseRow.id == LedgerSum.lease_id)
        .where(LeaseRow.state == "open")
        .group_by(LeaseRow.job_id, LedgerSum.kind)
    ):
        pending[job_id] = pending.get(job_id, 0) + sums.held_micros(kind, amount, covered)
    return pending


def doubles_by_job(session: Session) -> dict[int, int]:
    """What of each job's leases a second instance of its own create call has used, where one has.

    It was charged to that instance's own job, which has no cap; the cap of the job that made it
    bears it.
    """
    capless = select(Job.id).where(Job.cap_micros == 0)
    query = (
        select(LeaseRow.job_id, func.sum(LedgerSum.covered_micros))
        .join(LedgerSum, LedgerSum.lease_id == LeaseRow.id)
        .where(LedgerSum.job_id.in_(capless), LedgerSum.job_id != LeaseRow.job_id)
        .group_by(LeaseRow.job_id)
    )
    return {job_id: used for job_id, used in session.execute(query)}  # noqa: C416  (rows, to mypy)


def _scope(
    job_id: int | None, project: str | None, month: str | None
) -> Iterator[ColumnElement[bool]]:
    if job_id is not None:
        yield LedgerSum.job_id == job_id
    if project is not None:
        yield LedgerSum.project == project
    if month is not None:
        yield LedgerSum.month == month


def lease_remaining_micros(session: Session, lease_id: int) -> int:
    """What a lease still holds."""
    return sums.pending(sums.by_kind(session, lease_id=lease_id))


def reserve(
    session: Session,
    job: Job,
    lease: LeaseRow,
    increment_micros: int,
    caps: Caps,
    at_ms: int,
    month: str,
    *,
    aside: bool = False,
) -> None:
    """Promise `increment_micros` more to `lease`, or raise DoesNotFit: invariant I1 is here.

    `aside`: for an instance that its create call makes too many, an entry of its own.
    """
    assert increment_micros >= 0, "a reservation is never taken back, it is settled"
    assert lease.state == "open", "what a settled lease reserved could never be given back"
    for account in accounts(session, job, caps, tuple(lease.months.split(","))):
        left = account.left_micros
        if left is not None and increment_micros > left:
            raise DoesNotFit(
                f"{account.scope}: cap {yuan_text(account.cap_micros or 0)}, "
                f"spent {yuan_text(account.posted_micros)}, "
                f"reserved {yuan_text(account.pending_micros)}, "
                f"disk {yuan_text(account.hold_micros)}, "
                f"left {yuan_text(left)} < {yuan_text(increment_micros)} yuan"
            )
    _append(
        session,
        job,
        kind="reserve",
        at_ms=at_ms,
        month=month,
        amount_micros=increment_micros,
        lease_id=lease.id,
        to_ms=lease.end_utc_ms,
        key=f"reserve:{lease.id}:{lease.seq}" + (":aside" if aside else ""),
        note=ASIDE if aside else f"lease {lease.seq} to its end plus {lease.latency_ms} ms",
    )


def charge(
    session: Session,
    job: Job,
    interval: PowerInterval,
    lease: LeaseRow | None,
    owed_micros: int,
    to_ms: int,
    place: Place,
    at_ms: int,
    month: str,
) -> int:
    """Bring what is posted for `interval` up to `owed_micros`; return the overrun in micro-yuan.

    The charge consumes the open lease's reservation in the same transaction; what the lease does
    not cover is charged all the same, and is the overrun. Facts are always recorded, past a cap
    too. Does nothing when nothing more is owed.
    """
    amount = owed_micros - interval.posted_micros
    if amount <= 0:
        interval.metered_to_ms = max(interval.metered_to_ms, to_ms)
        return 0
    covered = 0
    if interval.kind == "disk":
        job.hold_micros = max(job.hold_micros - amount, 0)
        covered = 0
    elif lease is not None and lease.state == "open":
        covered = min(amount, lease_remaining_micros(session, lease.id))
    _append(
        session,
        job,
        kind="charge",
        at_ms=at_ms,
        month=month,
        amount_micros=amount,
        covered_micros=covered,
        lease_id=lease.id if lease is not None and covered else None,
        interval_id=interval.id,
        from_ms=interval.metered_to_ms,
        to_ms=to_ms,
        stage=place.stage,
        phase=place.phase,
        key=f"charge:{interval.id}:{_corrections(session, interval)}:{owed_micros}",
        note=interval.kind,
    )
    interval.posted_micros = owed_micros
    interval.metered_to_ms = max(interval.metered_to_ms, to_ms)
    return 0 if interval.kind == "disk" else amount - covered


_CORRECTIONS = select(func.sum(LedgerSum.entries)).where(
    LedgerSum.interval_id == bindparam("interval_id"), LedgerSum.kind == "adjust"
)


def _corrections(session: Session, interval: PowerInterval) -> int:
    """How often the interval was corrected: between two corrections no figure is reached twice."""
    return session.connection().scalar(_CORRECTIONS, {"interval_id": interval.id}) or 0


def adjust(
    session: Session,
    job: Job,
    interval: PowerInterval,
    owed_micros: int,
    why: str,
    at_ms: int,
    month: str,
) -> None:
    """Correct what is posted for `interval` to `owed_micros`, saying why."""
    amount = owed_micros - interval.posted_micros
    if amount == 0:
        return
    _append(
        session,
        job,
        kind="adjust",
        at_ms=at_ms,
        month=month,
        amount_micros=amount,
        interval_id=interval.id,
        key=f"adjust:{interval.id}:{at_ms}:{owed_micros}",
        note=why,
    )
    interval.posted_micros = owed_micros


def settle(
    session: Session,
    job: Job,
    lease: LeaseRow,
    at_ms: int,
    month: str,
    why: str = "the meter was seen stopped",
) -> None:
    """Give back what `lease` did not use, and close it.

    Only a proven stop may call this (I4), or one that a person attests where no platform can.
    """
    rest = lease_remaining_micros(session, lease.id)
    assert rest >= 0, "a lease cannot have been charged beyond its reservation"
    _append(
        session,
        job,
        kind="settle",
        at_ms=at_ms,
        month=month,
        amount_micros=rest,
        lease_id=lease.id,
        key=f"settle:{lease.id}",
        note=why,
    )
    lease.state = "settled"


_LAST_HASH = select(LedgerEntry.hash).order_by(LedgerEntry.id.desc()).limit(1)
_INSERT = insert(Base.metadata.tables[LedgerEntry.__tablename__])


def _append(
    session: Session,
    job: Job,
    *,
    kind: str,
    at_ms: int,
    month: str,
    amount_micros: int,
    key: str,
    note: str,
    covered_micros: int = 0,
    lease_id: int | None = None,
    interval_id: int | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    stage: int | None = None,
    phase: str | None = None,
) -> None:
    if session.new:
        session.flush()  # what the entry names has to be there
    connection = session.connection()
    fields = {
        "at_ms": at_ms,
        "job_id": job.id,
        "project": job.project,
        "month": month,
        "kind": kind,
        "amount_micros": amount_micros,
        "covered_micros": covered_micros,
        "lease_id": lease_id,
        "interval_id": interval_id,
        "from_ms": from_ms,
        "to_ms": to_ms,
        "stage": stage,
        "phase": phase,
        "key": key,
        "note": note,
        "previous_hash": connection.scalar(_LAST_HASH) or GENESIS,
    }
    link = _hash(fields)
    entry_id = connection.execute(_INSERT, {**fields, "hash": link}).lastrowid
    session.info[HEAD] = Head(entry_id, link)


def entry_hash(entry: LedgerEntry | Row[Any]) -> str:
    """The entry's link in the chain: SHA-256 over the previous hash and every field."""
    return _hash({name: getattr(entry, name) for name in HASHED_FIELDS})


def _hash(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def broken_links(session: Session) -> list[int]:
    """Ids of the entries whose hash or link to the one before does not hold; empty when clean."""
    broken: list[int] = []
    previous = GENESIS
    for entry in session.scalars(select(LedgerEntry).order_by(LedgerEntry.id)):
        if entry.previous_hash != previous or entry.hash != entry_hash(entry):
            broken.append(entry.id)
        previous = entry.hash
    return broken
