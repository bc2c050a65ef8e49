"""Caps that were set at the command line; they go before those of the config."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core.decide import FINAL_STATES
from costguard.store.models import BudgetRow, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.ledger import Caps

_SET_CAPS = select(BudgetRow.scope, BudgetRow.name, BudgetRow.cap_micros)


def set_cap(session: Session, scope: str, name: str, cap_micros: int, at_ms: int) -> int | None:
    """Set the cap of a project or a month; what was set here before, None at the first time."""
    row = session.get(BudgetRow, (scope, name))
    if row is None:
        session.add(BudgetRow(scope=scope, name=name, cap_micros=cap_micros, set_ms=at_ms))
        return None
    old, row.cap_micros, row.set_ms = row.cap_micros, cap_micros, at_ms
    return old


def shares_caps(session: Session, job: Job, configured: Caps, months: tuple[str, ...]) -> bool:
    """Whether another job that is not over lives under a cap that this one lives under too."""
    caps = in_force(session, configured)
    others = select(Job.id).where(Job.id != job.id, Job.state.not_in(FINAL_STATES)).limit(1)
    own = caps.months or {}
    has_month = any(own.get(month, caps.month_micros) is not None for month in months)
    if not has_month:
        if (caps.project_micros or {}).get(job.project) is None:
            return False
        others = others.where(Job.project == job.project)
    return session.scalars(others).first() is not None


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
