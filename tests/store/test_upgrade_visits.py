"""The revisions of visits and what came after them, on a database with a job from before them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from costguard.core.moment import Moment
from costguard.daemon.load import newest_instance
from costguard.store.database import Store
from costguard.store.migrate import upgrade
from costguard.store.models import Instance, Job, VisitRow
from costguard.store.visits import begin_time, close_visit, open_visit, visit_facts
from tests.store.test_upgrades import FIRST, add_job, upgrade_to

if TYPE_CHECKING:
    from pathlib import Path


def test_a_job_from_before_has_no_visit_and_can_be_visited(tmp_path: Path) -> None:
    """One at a time: the closed one is the past."""
    path = tmp_path / "costguard.db"
    upgrade_to(path, FIRST)
    with closing(sqlite3.connect(path)) as plain, plain:
        add_job(plain)
    upgrade(path)
    store = Store(path)
    with store.write() as session:
        assert session.get_one(Job, 1).wish == "run"
        instance = session.get_one(Instance, 1)
        assert newest_instance(session, 1) is instance
        assert instance.agent_until_ms is None
        instance.replaced_ms = 1
        session.flush()
        assert newest_instance(session, 1) is None
        assert visit_facts(open_visit(session, 1)) is None
        begin_time(session, 1, Moment(1, 1, "b"))  # nobody visits: nothing happens
        row = VisitRow(job_id=1, purpose="shell", length_ms=1_000, asked_ms=1)
        row.heard_utc_ms, row.heard_boot_ms, row.heard_boot_id = 1, 2, "b"
        session.add(row)
    with store.write() as session:
        begin_time(session, 1, Moment(10, 20, "b"))
        facts = visit_facts(open_visit(session, 1))
        assert facts is not None
        assert (facts.until, facts.heard) == (Moment(1_010, 1_020, "b"), Moment(1, 2, "b"))
        close_visit(session, 1, 5)
    with store.read() as session:
        assert open_visit(session, 1) is None
    store.close()
