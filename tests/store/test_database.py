from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from costguard.errors import UserError
from costguard.store.database import Store, StoreUnavailable, engine_for, read_only_session
from costguard.store.migrate import upgrade
from costguard.store.models import Base, Meta

if TYPE_CHECKING:
    from pathlib import Path


def test_the_migrations_make_what_the_models_describe(empty_database: Path) -> None:
    """The schema comes from migrations alone, and has not drifted."""
    with engine_for(empty_database, read_only=True).connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []


def test_an_upgrade_keeps_the_rows_that_are_there(empty_database: Path, tmp_path: Path) -> None:
    """Upgrading what is newest already changes nothing."""
    path = tmp_path / "costguard.db"
    path.write_bytes(empty_database.read_bytes())
    store = Store(path)
    with store.write() as session:
        session.add(Meta(key="installation", value="abc"))
    store.close()
    upgrade(path)
    with read_only_session(path) as session:
        assert session.get_one(Meta, "installation").value == "abc"


def test_a_database_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """What, where, and what to do."""
    with pytest.raises(UserError) as caught:
        upgrade(tmp_path / "missing" / "costguard.db")
    assert "missing" in caught.value.where
    assert caught.value.hint


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 5000)],
)
def test_the_settings_that_matter_are_in_force(store: Store, pragma: str, value: object) -> None:
    """WAL with synchronous=FULL: what is committed survives a power cut."""
    with store.write() as session:
        assert session.execute(text(f"PRAGMA {pragma}")).scalar() == value


def test_a_writer_holds_the_lock_from_its_beginning(store: Store) -> None:
    """BEGIN IMMEDIATE: a check and the insert after it are one transaction."""
    with store.write() as session:
        path = session.execute(text("PRAGMA database_list")).one()[2]
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    """All of it or none."""
    with pytest.raises(ZeroDivisionError), store.write() as session:
        session.add(Meta(key="half", value="x"))
        session.flush()
        raise ZeroDivisionError
    with store.read() as session:
        assert session.get(Meta, "half") is None


def test_a_full_disk_is_told_as_such_and_writes_nothing(store: Store) -> None:
    """SQLite's own limit on pages stands for the disk's."""
    with store.write() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar()
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StoreUnavailable, match="full"), store.write() as session:
        session.add_all(Meta(key=f"k{n}", value="x" * 4_000) for n in range(20))
    with store.read() as session:
        assert session.query(Meta).count() == 0


def test_a_reader_cannot_write(store: Store) -> None:
    """Whoever asks."""
    with pytest.raises(StoreUnavailable, match="readonly"), store.read() as session:
        session.execute(text("INSERT INTO meta VALUES ('a', 'b')"))
