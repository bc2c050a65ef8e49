"""The revision of budgets and attempts, on a database that the first one made and filled."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from costguard.store.budgets import set_cap
from costguard.store.database import Store
from costguard.store.migrate import upgrade
from costguard.store.models import BudgetRow, Instance, Job
from tests.store.test_upgrades import FIRST, add_job, upgrade_to

if TYPE_CHECKING:
    from pathlib import Path


def test_a_running_job_goes_on_in_its_first_attempt(tmp_path: Path) -> None:
    """Nothing of what it has told so far is taken for an earlier attempt's."""
    path = tmp_path / "costguard.db"
    upgrade_to(path, FIRST)
    with closing(sqlite3.connect(path)) as plain, plain:
        add_job(plain)
    upgrade(path)
    store = Store(path)
    with store.write() as session:
        job, instance = session.get_one(Job, 1), session.get_one(Instance, 1)
        assert (job.attempt, job.first_seq, job.stage_since_ms, job.collected) == (
            0,
            0,
            None,
            False,
        )
        assert instance.guest_stop == "proven"  # `local`, whose power-off stops the meter
        assert set_cap(session, "project", "p", 5, 1) is None
        assert set_cap(session, "project", "p", 7, 2) == 5
    with store.read() as session:
        assert session.get_one(BudgetRow, ("project", "p")).cap_micros == 7
    store.close()
