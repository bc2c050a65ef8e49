from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from costguard.errors import UserError
from costguard.store import database, ledger
from costguard.store.database import Store, StoreUnavailable, engine_for, read_only_session
from costguard.store.events import add_event
from costguard.store.migrate import upgrade
from costguard.store.models import Base, Event, Job, Meta, PowerInterval
from tests.store.invariants import check_books
from tests.store.rows import add_interval, add_job, add_lease, charge, reserve

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def test_readers_see_one_state_while_a_writer_writes(store: Store) -> None:
    """WAL: reading waits for no one, and sees nothing half-done."""
    with store.write() as writing:
        writing.add(Meta(key="a", value="1"))
        writing.flush()
        with store.read() as reading:
            assert reading.get(Meta, "a") is None
    with store.read() as reading:
        assert reading.get_one(Meta, "a").value == "1"


def test_of_two_processes_that_check_then_insert_one_sees_the_others(store: Store) -> None:
    """The second to begin waits; its check is made on what the first has written."""
    path = Path(store_path(store))
    other = Store(path)
    seen: list[int] = []
    counted = threading.Event()

    def count_then_add(mine: Store, key: str) -> None:
        with mine.write() as session:
            seen.append(session.query(Meta).count())
            counted.set()
            session.add(Meta(key=key, value="x"))

    with store.write() as session:
        assert session.query(Meta).count() == 0
        late = threading.Thread(target=count_then_add, args=(other, "late"))
        late.start()
        assert not counted.wait(0.2)
        session.add(Meta(key="early", value="x"))
    late.join(timeout=10)
    assert seen == [1]
    other.close()


def test_a_lock_that_is_not_let_go_is_told_as_such(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the busy time-out; nothing hangs for ever."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    other = Store(Path(store_path(store)))
    with store.write() as session:
        session.add(Meta(key="a", value="1"))
        session.flush()
        with pytest.raises(StoreUnavailable, match="locked"), other.write() as second:
            second.get(Meta, "a")
    other.close()


def test_a_file_that_became_read_only_is_told_as_such(store: Store) -> None:
    """SQLite's own refusal to write stands for the disk's; nothing is half-written."""
    with store.write() as session:
        session.execute(text("PRAGMA query_only = ON"))
    with pytest.raises(StoreUnavailable, match="readonly"), store.write() as session:
        session.add(Meta(key="a", value="1"))
    with store.read() as session:
        assert session.query(Meta).count() == 0


def test_a_file_without_write_permission_is_told_as_such(
    empty_database: Path,
) -> None:
    """As an ordinary user, on a file that is not theirs to write."""
    folder = Path(tempfile.mkdtemp(prefix="costguard-readonly-"))
    path = folder / "costguard.db"
    path.write_bytes(empty_database.read_bytes())
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        with (
            as_ordinary_user(),
            contextlib.closing(Store(path)) as opened,
            pytest.raises(StoreUnavailable),
            opened.write() as session,
        ):
            session.add(Meta(key="a", value="1"))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_full_disk_in_the_midst_of_a_charge_leaves_the_books_as_they_were(store: Store) -> None:
    """The entry, the interval's figure and the hold: all of it or nothing."""
    with store.write() as session:
        job = add_job(session)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 50)
        pages = session.execute(text("PRAGMA page_count")).scalar()
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
    job_id, interval_id = job.id, interval.id
    with pytest.raises(StoreUnavailable, match="full"), store.write() as session:
        job, interval = session.get_one(Job, job_id), session.get_one(PowerInterval, interval_id)
        for owed in range(1, 400):
            charge(session, job, interval, None, owed)
            session.add(Meta(key=f"filler {owed}", value="x" * 500))
    with store.read() as session:
        check_books(session)
        assert session.get_one(PowerInterval, interval_id).posted_micros == 0
        assert ledger.pending_micros(session) == 50_000_000
        assert session.query(Meta).count() == 0


def test_reading_needs_a_file_and_makes_none(tmp_path: Path) -> None:
    """The command line must not leave a database behind."""
    path = tmp_path / "costguard.db"
    with (
        pytest.raises(StoreUnavailable, match="unable to open"),
        read_only_session(path) as session,
    ):
        session.get(Meta, "a")
    assert not path.exists()


def test_a_file_that_is_no_database_is_told_as_such(tmp_path: Path) -> None:
    """Damaged, or something else under that name."""
    path = tmp_path / "costguard.db"
    path.write_bytes(b"not a database at all, but long enough to be taken for one" * 50)
    with (
        pytest.raises(StoreUnavailable, match="not a database"),
        read_only_session(path) as session,
    ):
        session.get(Meta, "a")


def test_a_broken_rule_of_the_schema_is_not_a_fault_of_the_disk(store: Store) -> None:
    """It is a bug of ours, and must not be waited out."""
    with pytest.raises(IntegrityError), store.write() as session:
        session.execute(text("INSERT INTO meta VALUES ('a', 'b'), ('a', 'c')"))


def test_what_was_read_can_be_used_after_the_session(store: Store) -> None:
    """Rows are kept as they were read or committed."""
    with store.write() as session:
        written = Meta(key="a", value="1")
        session.add(written)
    with store.read() as session:
        found = session.get_one(Meta, "a")
    with read_only_session(Path(store_path(store))) as session:
        again = session.get_one(Meta, "a")
    assert written.value == found.value == again.value == "1"


def test_a_job_is_updated_by_whoever_saw_its_latest_version(store: Store) -> None:
    """Compare and set: what was decided on an older view is not written."""
    with store.write() as session:
        job_id = add_job(session).id
    with store.read() as session:
        stale = session.get_one(Job, job_id)
    with store.write() as session:
        session.get_one(Job, job_id).state = "training"
    with pytest.raises(StaleDataError), store.write() as session:
        session.add(stale)
        stale.state = "paused"
    with store.read() as session:
        assert session.get_one(Job, job_id).state == "training"


def test_an_event_keeps_what_it_rests_on(store: Store) -> None:
    """As JSON, in the language it was written in; an empty object where there is nothing."""
    with store.write() as session:
        add_event(session, None, 5, "note", "说明", {"why": "训练完成"})
        add_event(session, None, 6, "note", "plain")
    with store.read() as session:
        first, second = session.query(Event).order_by(Event.id)
        assert (first.at_ms, first.kind, first.text) == (5, "note", "说明")
        assert first.data_json == '{"why": "训练完成"}'
        assert second.data_json == "{}"


def store_path(store: Store) -> str:
    """Where its file lies."""
    with store.read() as session:
        return str(session.execute(text("PRAGMA database_list")).one()[2])


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may write anywhere; for a moment it is nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
