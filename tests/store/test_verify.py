from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from costguard.store import ledger
from costguard.store.head import Head, HeadState, head_of, head_path, read_head
from costguard.store.models import LedgerEntry
from costguard.store.verify import SHOWN_MAX, Finding, verify
from tests.bench import big_ledger
from tests.store.rows import YUAN, add_interval, add_job, add_lease, charge, reserve

if TYPE_CHECKING:
    from pathlib import Path

    from costguard.store.database import Store


@pytest.fixture
def books(store: Store) -> Store:
    """A reservation, two charges, a correction, a settled lease and an open one."""
    with store.write() as session:
        job = add_job(session)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 50)
        charge(session, job, interval, lease, 20)
        charge(session, job, interval, lease, 30)
        ledger.adjust(session, job, interval, 28 * YUAN, "stopped earlier", 4, "2026-11")
        ledger.settle(session, job, lease, 5, "2026-11")
        reserve(session, job, add_lease(session, job), 7)
    return store


def found(store: Store, path: Path) -> list[Finding]:
    """What is found now."""
    kept = read_head(head_path(path))
    with store.read() as session:
        return list(verify(session, kept).findings)


def codes(store: Store, path: Path) -> set[str]:
    """The stable words of what is found now."""
    return {finding.code for finding in found(store, path)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database under test."""
    return tmp_path / "costguard.db"


def tamper(path: Path, *statements: str) -> None:
    """What one does who opens the file with a tool of their own; rules of the schema are off."""
    with closing(sqlite3.connect(path)) as plain, plain:
        plain.execute("PRAGMA ignore_check_constraints = ON")
        for name, sql in plain.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            plain.execute(f"DROP TRIGGER {name}")
            statements = (*statements, sql)
        for statement in statements:
            plain.execute(statement)


def test_sound_books_have_no_findings(books: Store, path: Path) -> None:
    """And it says how far it looked."""
    assert found(books, path) == []
    with books.read() as session:
        result = verify(session, read_head(head_path(path)))
        assert (result.entries, result.head) == (6, head_of(session))


def test_empty_books_need_no_head(store: Store, path: Path) -> None:
    """Nothing was written, so nothing can be missing."""
    assert not head_path(path).exists()
    assert found(store, path) == []


@pytest.mark.parametrize(
    ("statement", "code", "where"),
    [
        ("UPDATE ledger SET note = 'x' WHERE id = 2", "entry_changed", "2"),
        ("DELETE FROM ledger WHERE id = 2", "entry_changed", "3"),
        ("UPDATE ledger SET amount_micros = 1 WHERE id = 2", "interval_differs", "1"),
        ("UPDATE power_intervals SET posted_micros = 1", "interval_differs", "1"),
        ("UPDATE ledger SET covered_micros = 99e6 WHERE id = 3", "lease_overdrawn", "1"),
        ("UPDATE ledger SET lease_id = NULL WHERE id = 3", "nothing_reserved", "3"),
        ("UPDATE ledger SET amount_micros = 1 WHERE id = 5", "lease_not_empty", "1"),
        ("UPDATE ledger_sums SET amount_micros = 0", "sum_differs", "1 p 2026-11 reserve 1"),
        ("DELETE FROM ledger_sums WHERE kind = 'settle'", "sum_differs", "1 p 2026-11 settle 1"),
        ("UPDATE leases SET job_id = 77", "row_missing", "leases 1"),
    ],
)
def test_every_change_is_found_and_named(
    books: Store, path: Path, statement: str, code: str, where: str
) -> None:
    """With the triggers away while it is done, and back in their place afterwards."""
    tamper(path, statement)
    assert (code, where) in {(each.code, each.where) for each in found(books, path)}


def test_the_figures_of_a_difference_are_shown(books: Store, path: Path) -> None:
    """What the row says and what the entries come to."""
    tamper(path, "UPDATE power_intervals SET posted_micros = 1")
    assert found(books, path) == [
        Finding("interval_differs", "1", {"entries_micros": 28 * YUAN, "row_micros": 1})
    ]


@pytest.mark.parametrize("trigger", ["ledger_no_update", "commands_no_delete", "ledger_sums_add"])
def test_a_trigger_that_is_gone_is_missed(books: Store, path: Path, trigger: str) -> None:
    """Without it the next change would come unseen."""
    with books.write() as session:
        session.execute(text(f"DROP TRIGGER {trigger}"))
    assert found(books, path) == [Finding("trigger_missing", trigger)]


def test_a_trigger_of_that_name_that_does_nothing_is_missed_too(books: Store, path: Path) -> None:
    """Its text is looked at, not its name alone."""
    with books.write() as session:
        session.execute(text("DROP TRIGGER ledger_no_update"))
        session.execute(
            text("CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger BEGIN SELECT 1; END")
        )
    assert codes(books, path) == {"trigger_missing"}


def test_a_key_that_stands_twice_is_found(books: Store, path: Path) -> None:
    """The table was made anew by hand, without the index that refuses it."""
    tamper(
        path,
        "CREATE TABLE copy AS SELECT * FROM ledger",
        "DROP TABLE ledger",
        "ALTER TABLE copy RENAME TO ledger",
        "UPDATE ledger SET key = (SELECT key FROM ledger WHERE id = 2) WHERE id = 3",
    )
    assert Finding("key_twice", "charge:1:0:20000000") in found(books, path)


def test_a_cut_tail_is_found_by_the_head_alone(books: Store, path: Path) -> None:
    """One who knows all the recipes: entry, sums and lease are gone, the chain has no fault."""
    tamper(
        path,
        "DELETE FROM ledger WHERE id = 6",
        "DELETE FROM ledger_sums WHERE lease_id = 2",
        "DELETE FROM leases WHERE id = 2",
    )
    assert found(books, path) == [Finding("tail_cut", "ledger.head", {"entry": 6, "newest": 5})]


def test_a_head_of_other_books_is_found(books: Store, path: Path) -> None:
    """Such as a database that was put back without its head."""
    with books.read() as session:
        findings = verify(session, Head(6, "f" * 64)).findings
    assert [finding.code for finding in findings] == ["tail_changed"]


@pytest.mark.parametrize(
    ("state", "code"),
    [(HeadState.MISSING, "head_missing"), (HeadState.UNREADABLE, "head_unreadable")],
)
def test_a_head_that_is_lost_is_told_from_a_tail_that_is_cut(
    books: Store, state: HeadState, code: str
) -> None:
    """Of a tail nothing is known then, which is said."""
    with books.read() as session:
        assert [each.code for each in verify(session, state).findings] == [code]


def test_a_head_that_lags_is_in_order(books: Store) -> None:
    """The daemon was killed between its commit and the file."""
    with books.read() as session:
        third = session.get_one(LedgerEntry, 3)
        assert verify(session, Head(3, third.hash)).findings == ()
        assert verify(session, Head(0, "0" * 64)).findings == ()


def test_a_chain_that_is_broken_early_is_not_told_a_million_times(books: Store, path: Path) -> None:
    """The first ones say it all."""
    with books.write() as session:
        job = add_job(session, "y", cap=1_000)
        lease = add_lease(session, job)
        for _ in range(SHOWN_MAX + 5):
            reserve(session, job, lease, 1)
    tamper(path, "UPDATE ledger SET at_ms = at_ms + 1")
    changed = [each for each in found(books, path) if each.code == "entry_changed"]
    assert len(changed) == SHOWN_MAX


def test_a_damaged_file_is_told_as_such(books: Store, path: Path) -> None:
    """SQLite's own check of its pages."""
    tamper(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    books.close()
    with closing(sqlite3.connect(path)) as plain:
        (page,) = plain.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_ledger_month'"
        ).fetchone()
        (size,) = plain.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as stream:
        stream.seek((page - 1) * size + 3)
        stream.write(b"\0\0")  # the index claims to be empty
    assert "file_damaged" in codes(books, path)


def test_the_books_that_the_bench_times_hold(tmp_path: Path) -> None:
    """What it measures is a verification that goes to the end, not one that finds much."""
    database = tmp_path / "big.db"
    big_ledger.build(database, 20 * big_ledger.JOBS)
    seen = big_ledger.verified(database)
    assert (seen.entries, seen.findings) == (20 * big_ledger.JOBS, ())
