"""Each revision after the first, on a database with rows that the one before it has left."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config

from costguard.store import ledger
from costguard.store.database import read_only_session
from costguard.store.migrate import migrations_dir, upgrade

if TYPE_CHECKING:
    from pathlib import Path

FIRST = "20261124a"
ENTRY = (
    "INSERT INTO ledger (id, at_ms, job_id, project, month, kind, amount_micros, covered_micros,"
    " lease_id, interval_id, from_ms, to_ms, stage, phase, key, note, previous_hash, hash)"
    " VALUES (?, 5, 1, 'p', '2026-11', ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, '', '', ?)"
)


def upgrade_to(path: Path, revision: str) -> None:
    """The database as it was at `revision`."""
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.set_main_option("recursive_version_locations", "true")
    config.attributes["database"] = path
    command.upgrade(config, revision)


def add_job(plain: sqlite3.Connection) -> None:
    """Job 1 with an instance and an open interval of running."""
    plain.execute(
        "INSERT INTO jobs (id, version, name, project, spec_json, submit_key, created_ms,"
        " state, wish, breach, cap_micros, hold_micros, stage, last_seq)"
        " VALUES (1, 0, 'x', 'p', '{}', 'x', 0, 'training', 'run', 0, 100, 0, 0, 0)"
    )
    plain.execute(
        "INSERT INTO instances (id, job_id, provider, tag, price_micros_per_hour, quantum_s,"
        " paused_micros_per_hour, power, stop_calls, stop_accepted, was_on)"
        " VALUES (1, 1, 'local', 't', 1, 1, 0, 'running', 0, 0, 1)"
    )
    plain.execute(
        "INSERT INTO power_intervals (id, instance_id, job_id, kind, price_micros_per_hour,"
        " quantum_s, started_ms, anchor_utc_ms, anchor_boot_ms, anchor_boot_id, seen_to_ms,"
        " metered_to_ms, posted_micros)"
        " VALUES (1, 1, 1, 'running', 1, 1, 0, 0, 0, 'b', 0, 0, 55)"
    )


def test_sums_are_made_of_the_entries_that_were_there(tmp_path: Path) -> None:
    """A reservation, three charges in two quarters of an hour, a correction: to the micro-yuan."""
    path = tmp_path / "costguard.db"
    upgrade_to(path, FIRST)
    with closing(sqlite3.connect(path)) as plain, plain:
        add_job(plain)
        plain.execute(
            "INSERT INTO leases (id, job_id, seq, state, started_utc_ms, started_boot_ms,"
            " end_utc_ms, end_boot_ms, armed_end_utc_ms, boot_id, latency_ms, months, final)"
            " VALUES (1, 1, 1, 'open', 0, 0, 0, 0, 0, 'b', 0, '2026-11', 0)"
        )
        for entry in (
            (1, "reserve", 90, 0, 1, None, 7, None, None, "a", "a"),
            (2, "charge", 10, 10, 1, 1, 899_999, 0, "train", "b", "b"),
            (3, "charge", 20, 20, 1, 1, 899_999, 0, "train", "c", "c"),
            (4, "charge", 30, 25, 1, 1, 900_000, 0, "train", "d", "d"),
            (5, "adjust", -5, 0, None, 1, None, None, None, "e", "e"),
        ):
            plain.execute(ENTRY, entry)
    upgrade(path)
    with read_only_session(path) as session:
        assert ledger.posted_micros(session, job_id=1) == 55
        assert ledger.lease_remaining_micros(session, 1) == 90 - 55
    with closing(sqlite3.connect(path)) as plain:
        sums = plain.execute(
            "SELECT kind, slot, first_id, entries, amount_micros, covered_micros, lease_id,"
            " interval_id, stage, phase FROM ledger_sums ORDER BY first_id"
        ).fetchall()
        assert sums == [
            ("reserve", 0, 1, 1, 90, 0, 1, 0, -1, ""),
            ("charge", 0, 2, 2, 30, 30, 1, 1, 0, "train"),
            ("charge", 1, 4, 1, 30, 25, 1, 1, 0, "train"),
            ("adjust", 0, 5, 1, -5, 0, 0, 1, -1, ""),
        ]
        attested = plain.execute("SELECT attested_stop_ms, attested_at_ms FROM instances")
        assert attested.fetchall() == [(None, None)]


def test_an_entry_added_after_the_upgrade_joins_its_sum(tmp_path: Path) -> None:
    """The trigger and the filling of the table speak of the same keys."""
    path = tmp_path / "costguard.db"
    upgrade_to(path, FIRST)
    row = (1, "charge", 10, 0, None, 1, 900_001, 0, "train", "b", "b")
    with closing(sqlite3.connect(path)) as plain, plain:
        add_job(plain)
        plain.execute(ENTRY, row)
    upgrade(path)
    with closing(sqlite3.connect(path)) as plain, plain:
        plain.execute(ENTRY, (2, *row[1:-2], "c", "c"))
        sums = "SELECT entries, amount_micros FROM ledger_sums"
        assert plain.execute(sums).fetchall() == [(2, 20)]


def test_an_outbox_joins_a_home_that_has_jobs_already(tmp_path: Path) -> None:
    """Its rows stay, and a notice can belong to one of them."""
    path = tmp_path / "costguard.db"
    upgrade_to(path, "20261124c")
    with closing(sqlite3.connect(path)) as plain, plain:
        add_job(plain)
    upgrade(path)
    with closing(sqlite3.connect(path)) as plain, plain:
        plain.execute("PRAGMA foreign_keys = ON")
        plain.execute("INSERT INTO notices VALUES (1, 'k', 0, 1, 'started', '{}')")
        plain.execute("INSERT INTO deliveries VALUES (1, 'phone', 'waiting', 0, 0, NULL, NULL)")
        assert plain.execute("SELECT name FROM jobs").fetchall() == [("x",)]
        with pytest.raises(sqlite3.IntegrityError, match="sent"):
            plain.execute("UPDATE deliveries SET state = 'sent'")
