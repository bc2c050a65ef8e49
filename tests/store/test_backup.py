from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from costguard.errors import EXIT_USAGE, UserError
from costguard.store import backup, ledger
from costguard.store.backup import back_up, restore
from costguard.store.database import Store, read_only_session
from costguard.store.head import HeadState, head_of, head_path, read_head, write_head
from costguard.store.migrate import upgrade
from costguard.store.models import Job, LedgerEntry, Meta
from costguard.store.restored import is_restored, restored_at_ms
from costguard.store.verify import verify
from tests.store.rows import YUAN, add_job, add_lease, reserve
from tests.store.test_upgrades import upgrade_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.store.head import Head

NOW_MS = 1_795_536_000_000


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """These databases are of the newest schema; a process that finds so takes a second each."""
    if "older" not in request.node.name:
        monkeypatch.setattr(backup, "upgrade", lambda _: None)


@pytest.fixture
def database(store: Store, tmp_path: Path) -> Path:
    """A database with one entry, open as in a daemon that runs."""
    with store.write() as session:
        job = add_job(session)
        reserve(session, job, add_lease(session, job), 10)
    return tmp_path / "costguard.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the backup goes: a folder with a space and a quote in its name."""
    folder = tmp_path / "my 'backups"
    folder.mkdir()
    return folder / "books.db"


def append(store: Store, name: str) -> None:
    """One more job and entry."""
    with store.write() as session:
        job = add_job(session, name)
        reserve(session, job, add_lease(session, job), 10)


def names(path: Path) -> set[str]:
    """The jobs that a database knows."""
    with read_only_session(path) as session:
        return {job.name for job in session.query(Job)}


def test_a_backup_is_made_while_a_writer_writes(store: Store, database: Path, target: Path) -> None:
    """It holds one consistent state: what was committed, and nothing half-done."""
    with store.write() as session:
        job = add_job(session, "half")
        reserve(session, job, add_lease(session, job), 10)
        found = back_up(database, target, NOW_MS)
    assert (found.entries, found.findings) == (1, ())
    assert names(target) == {"x"}


def test_a_backup_is_one_private_file_with_the_head_in_it(database: Path, target: Path) -> None:
    """Nothing lies beside it, and nobody else may read it."""
    back_up(database, target, NOW_MS)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with read_only_session(target) as session:
        facts = json.loads(session.get_one(Meta, "backup").value)
        head = head_of(session)
    assert facts == {"taken_ms": NOW_MS, "entry": head.entry_id, "hash": head.hash}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_backup_is_on_the_disk_before_it_bears_its_name(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves a whole backup or none."""
    done: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        real_fsync(descriptor)

    def link(old: Path, new: Path) -> None:
        done.append("named")
        real_link(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    back_up(database, target, NOW_MS)
    assert done == ["books.db.partial", "named", "my 'backups"]


def test_an_older_file_is_never_overwritten(database: Path, target: Path) -> None:
    """It may be the better backup."""
    target.write_text("precious")
    with pytest.raises(UserError, match="exists already") as caught:
        back_up(database, target, NOW_MS)
    assert caught.value.exit_code == EXIT_USAGE
    assert target.read_text() == "precious"


def test_a_backup_that_fails_leaves_nothing(database: Path, target: Path) -> None:
    """The folder is gone, say."""
    with pytest.raises(UserError, match="no backup was made"):
        back_up(database, target.parent / "none" / "books.db", NOW_MS)
    assert list(target.parent.iterdir()) == []


def test_without_a_database_there_is_nothing_to_back_up(tmp_path: Path, target: Path) -> None:
    """And none is made."""
    with pytest.raises(UserError, match="no database yet"):
        back_up(tmp_path / "none.db", target, NOW_MS)
    assert not (tmp_path / "none.db").exists()


def test_books_with_a_cut_tail_are_backed_up_and_told(
    store: Store, database: Path, target: Path
) -> None:
    """The witness of what was lost travels along, and such a backup is not put back."""
    append(store, "y")
    with store.write() as session:
        session.execute(text("DROP TRIGGER ledger_no_delete"))
        session.execute(text("DELETE FROM ledger WHERE id = 2"))
        session.execute(text("DELETE FROM ledger_sums WHERE first_id = 2"))
    found = back_up(database, target, NOW_MS)
    assert {each.code for each in found.findings} == {"trigger_missing", "tail_cut"}
    with pytest.raises(UserError, match=r"do not hold \(tail_cut, trigger_missing\)"):
        restore(database, target, NOW_MS)


@pytest.fixture
def backed_up(store: Store, database: Path, target: Path) -> Path:
    """A backup, after which one more job was submitted, and no daemon runs any more."""
    back_up(database, target, NOW_MS)
    append(store, "later")
    store.close()
    return target


def test_what_was_backed_up_is_restored(backed_up: Path, database: Path) -> None:
    """Job for job and entry for entry; the head is the backup's own."""
    done = restore(database, backed_up, NOW_MS + 5)
    assert (done.entries, done.taken_ms) == (1, NOW_MS)
    assert names(database) == {"x"}
    kept = read_head(head_path(database))
    with read_only_session(database) as session:
        assert verify(session, kept).findings == ()
        assert session.get(Meta, "backup") is None


def test_a_restored_database_is_marked_as_such(backed_up: Path, database: Path) -> None:
    """It grants nothing until every account has been listed."""
    restore(database, backed_up, NOW_MS + 5)
    with read_only_session(database) as session:
        assert is_restored(session)
        assert restored_at_ms(session) == NOW_MS + 5


def test_a_restored_database_goes_on(backed_up: Path, database: Path) -> None:
    """The next entry joins the chain, and the head follows it."""
    restore(database, backed_up, NOW_MS)
    again = Store(database)
    assert again.check_head() is HeadState.SAME
    append(again, "z")
    assert again.check_head() is HeadState.SAME
    again.close()


def test_the_replaced_database_is_kept_aside_with_its_head(backed_up: Path, database: Path) -> None:
    """Whole: what its log held is in it."""
    before = head_path(database).read_text()
    done = restore(database, backed_up, NOW_MS)
    assert done.aside == database.with_name(f"costguard.db.replaced-{NOW_MS}")
    assert done.aside is not None
    assert names(done.aside) == {"x", "later"}
    assert database.with_name(f"ledger.head.replaced-{NOW_MS}").read_text() == before


def test_a_home_without_a_database_can_be_restored(backed_up: Path, tmp_path: Path) -> None:
    """As after the loss of a disk."""
    fresh = tmp_path / "fresh" / "costguard.db"
    fresh.parent.mkdir()
    assert restore(fresh, backed_up, NOW_MS).aside is None
    assert names(fresh) == {"x"}
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600


def test_the_log_of_a_damaged_database_is_not_played_into_the_new_one(
    backed_up: Path, database: Path
) -> None:
    """It is kept aside beside its own."""
    database.write_bytes(b"damaged")
    log = database.with_name("costguard.db-wal")
    log.write_bytes(b"a log of something else")
    restore(database, backed_up, NOW_MS)
    assert names(database) == {"x"}
    aside = database.with_name(f"costguard.db.replaced-{NOW_MS}")
    assert aside.read_bytes() == b"damaged"
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"a log of something else"


def no_database(path: Path) -> None:
    """Somebody's letter."""
    path.write_text("this is a letter to a friend " * 100)


def another_database(path: Path) -> None:
    """Of another program."""
    with closing(sqlite3.connect(path)) as plain, plain:
        plain.execute("CREATE TABLE ledger (x)")


def nothing(path: Path) -> None:
    """No such file."""


@pytest.mark.parametrize("make", [no_database, another_database, nothing, Path.mkdir])
def test_what_is_no_backup_is_refused(
    database: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """Nothing is touched by then."""
    source = tmp_path / "source"
    make(source)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="no backup of costguard") as caught:
        restore(database, source, NOW_MS)
    assert caught.value.exit_code == EXIT_USAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_backup_that_was_edited_is_refused(backed_up: Path, database: Path) -> None:
    """What it says of money is not what was written."""
    with closing(sqlite3.connect(backed_up)) as plain, plain:
        plain.execute("DROP TRIGGER ledger_no_update")
        plain.execute("UPDATE ledger SET amount_micros = 1")
    with pytest.raises(UserError, match="entry_changed"):
        restore(database, backed_up, NOW_MS)
    assert names(database) == {"x", "later"}


def test_a_truncated_backup_is_refused(backed_up: Path, database: Path) -> None:
    """As one whose copying was cut off."""
    size = backed_up.stat().st_size
    with backed_up.open("r+b") as stream:
        stream.truncate(size // 2)
    with pytest.raises(UserError):
        restore(database, backed_up, NOW_MS)
    assert names(database) == {"x", "later"}
    assert not list(database.parent.glob("*.restoring*"))


def test_a_plain_copy_of_a_database_can_be_restored(
    store: Store, database: Path, tmp_path: Path
) -> None:
    """Made by another tool while no daemon ran: its own newest entry is its head."""
    store.close()
    shutil.copy(database, tmp_path / "copy.db")
    done = restore(database, tmp_path / "copy.db", NOW_MS)
    assert (done.entries, done.taken_ms) == (1, None)


def test_a_backup_of_an_older_version_is_upgraded(database: Path, tmp_path: Path) -> None:
    """The copy of it; the backup itself stays as it was."""
    source = tmp_path / "old.db"
    upgrade_to(source, "20261124a")
    before = source.read_bytes()
    restore(database, source, NOW_MS)
    assert source.read_bytes() == before
    upgrade(database)
    with read_only_session(database) as session:
        assert ledger.posted_micros(session) == 0
        assert session.query(LedgerEntry).count() == 0


def test_a_restore_forces_the_new_heads_name(
    backed_up: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it undone by a power cut, the old head would be ahead: as if entries had been lost."""
    done: list[str] = []

    def written(path: Path, head: Head) -> None:
        done.append("head")
        write_head(path, head)

    monkeypatch.setattr(backup, "write_head", written)
    monkeypatch.setattr(backup, "sync_folder", lambda _: done.append("folder"))
    restore(database, backed_up, NOW_MS)
    assert done == ["folder", "head", "folder"]


@pytest.mark.parametrize("step", ["_prepare", "_sync", "_set_aside"])
def test_a_restore_that_is_cut_short_leaves_the_old_books(
    backed_up: Path, database: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step it dies in."""

    def die(*_: object) -> None:
        raise OSError("cut short")

    monkeypatch.setattr(backup, step, die)
    with pytest.raises(UserError, match="nothing was restored"):
        restore(database, backed_up, NOW_MS)
    assert names(database) == {"x", "later"}
    with read_only_session(database) as session:
        assert ledger.pending_micros(session) == 20 * YUAN
        assert not is_restored(session)
