"""Caps that were set at the command line; they go before those of the config."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from costguard.core.decide import FINAL_STATES
from costguard.store.models import BudgetRow, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.ledger import Caps

# Built once: to put a statement together takes longer than to carry it out.
_SET_CAPS = select(BudgetRow.scope, BudgetRow.name, BudgetRow.cap_micros)
_ANOTHER = (
    select(Job.id)
    .where(Job.id != bindparam("job_id"), Job.state.not_in(sorted(FINAL_STATES)))
    .limit(1)
)
_ANOTHER_OF_PROJECT = _ANOTHER.where(Job.project == bindparam("project"))


def set_cap(session: Session, scope: str, name: str, cap_micros: int, at_ms: int) -> int | None:
    """Set the cap of a project or a month; what was set here before, None at the first time."""
    row = session.get(BudgetRow, (scope, name))
    if row is None:
        session.add(BudgetRow(scope=scope, name=name, cap_micros=cap_micros, set_ms=at_ms))
        return None
    old, row.cap_micros, row.set_ms = row.cap_micros, cap_micros, at_ms
    return old


def shares_caps(session: Session, job: Job, caps: Caps, months: tuple[str, ...]) -> bool:
    """Whether another job that is not over lives under one of these caps in force, as this one."""
    own = caps.months or {}
    connection = session.connection()
    if any(own.get(month, caps.month_micros) is not None for month in months):
        return connection.scalar(_ANOTHER, {"job_id": job.id}) is not None
    if (caps.project_micros or {}).get(job.project) is None:
        return False
    keys = {"job_id": job.id, "project": job.project}
    return connection.scalar(_ANOTHER_OF_PROJECT, keys) is not None


def in_force(session: Session, configured: Caps) -> Caps:
    """The caps of the config with those that were set since put over them."""
    rows = session.execute(_SET_CAPS).all()
    projects = {row.name: row.cap_micros for row in rows if row.scope == "project"}
    months = {row.name: row.cap_micros for row in rows if row.scope == "month"}
    return replace(
        configured,
        project_micros={**(configured.project_micros or {}), **projects},
        months={**(configured.months or {}), **months},
    )
