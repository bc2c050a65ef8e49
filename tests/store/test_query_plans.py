from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, text

from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.report.documents import read_answer
from costguard.store import ledger
from costguard.store.ledger import Caps
from costguard.store.models import Job
from tests.store.rows import YUAN, add_interval, add_job, add_lease, charge, reserve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy.orm import Session

    from costguard.store.database import Store

CAPS = Caps(month_micros=1_000 * YUAN, project_micros={"p": 1_000 * YUAN})
ZONE = ZoneInfo("Asia/Shanghai")


@pytest.fixture
def checked() -> None:
    """The checks around every ledger call do scan it, which is theirs to do."""


def plans(session: Session, statements: list[tuple[str, Any]]) -> Iterator[str]:
    """How SQLite goes about each statement."""
    connection = session.connection()
    for statement, parameters in statements:
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
            yield f"{row[3]} for {statement}"


def full_scans(
    opened: AbstractContextManager[Session], statements: list[tuple[str, Any]]
) -> list[str]:
    """The plans that walk through every entry of the ledger."""
    with opened as session:
        return [
            plan
            for plan in plans(session, statements)
            if plan.startswith("SCAN ledger ") and " LIMIT " not in plan
        ]


def watched(session: Session) -> list[tuple[str, Any]]:
    """Every query that this session makes from now on."""
    seen: list[tuple[str, Any]] = []

    @event.listens_for(session.connection(), "before_cursor_execute")
    def _note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith(("SELECT", "INSERT INTO ledger", "UPDATE")):
            seen.append((statement, parameters))

    return seen


def fill(session: Session) -> tuple[int, int]:
    """A job with a lease and charges; its id and the lease's."""
    job = add_job(session)
    job.spec_json = JobSpec("x", "p", 100, False, InstanceWish("local"), (Run(("x",)),)).to_json()
    job.pause_reason = "idle"
    lease, interval = add_lease(session, job), add_interval(session, job)
    reserve(session, job, lease, 50, CAPS)
    charge(session, job, interval, lease, 20)
    return job.id, interval.id


def test_a_grant_and_a_charge_look_at_no_entry_but_the_last(store: Store) -> None:
    """Reservations of a month, of a project and of a lease come from the sums."""
    with store.write() as session:
        job_id, _ = fill(session)
        session.execute(text("ANALYZE"))
        seen = watched(session)
        job = session.get_one(Job, job_id)
        lease, interval = (
            add_lease(session, job, "2026-11,2026-12"),
            add_interval(session, job, "u"),
        )
        reserve(session, job, lease, 5, CAPS)
        charge(session, job, interval, lease, 3)
        ledger.settle(session, job, lease, 9, "2026-11")
    assert len(seen) > 20
    assert full_scans(store.read(), seen) == []


def test_the_documents_look_at_the_sums_alone(store: Store) -> None:
    """Status, budgets and every kind of report."""
    with store.write() as session:
        fill(session)
        session.execute(text("ANALYZE"))
    with store.read() as session:
        seen = watched(session)
        for do, args in (
            ("status", {}),
            ("budget_show", {}),
            *(("report", {"by": by}) for by in (None, "job", "phase", "day")),
        ):
            read_answer(session, do, args, 9_000, ZONE, CAPS, None)
    assert len(seen) > 20
    assert full_scans(store.read(), seen) == []


def test_the_rule_would_find_a_scan(store: Store) -> None:
    """A test that cannot fail proves nothing."""
    with store.write() as session:
        fill(session)
    with store.read() as session:
        seen = watched(session)
        ledger.broken_links(session)
    assert full_scans(store.read(), seen) != []
