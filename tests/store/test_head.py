from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from costguard.store import database
from costguard.store.database import Store, StoreUnavailable
from costguard.store.head import GENESIS, Head, HeadState, head_of, head_path, read_head
from costguard.store.models import LedgerEntry
from tests.store.rows import add_job, add_lease, reserve

if TYPE_CHECKING:
    from pathlib import Path


def append(store: Store, name: str = "x") -> None:
    """One entry, in a transaction of its own."""
    with store.write() as session:
        job = add_job(session, name)
        reserve(session, job, add_lease(session, job), 1)


def cut_tail(store: Store, last: int = 1) -> None:
    """Take entries from the end away, as one would who drops the triggers first."""
    with store.write() as session:
        session.execute(text("DROP TRIGGER ledger_no_delete"))
        ids = session.query(LedgerEntry.id).order_by(LedgerEntry.id.desc()).limit(last)
        for (entry_id,) in ids.all():
            session.execute(text(f"DELETE FROM ledger WHERE id = {entry_id}"))
            session.execute(text(f"DELETE FROM ledger_sums WHERE first_id = {entry_id}"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the head of the store under test is kept."""
    return head_path(tmp_path / "costguard.db")


def test_each_append_is_followed_by_its_head(store: Store, path: Path) -> None:
    """Outside the database: its number and its hash."""
    for name in ("a", "b"):
        append(store, name)
        with store.read() as session:
            assert read_head(path) == head_of(session)
    assert read_head(path) == Head(2, json.loads(path.read_text())["hash"])


def test_what_appends_nothing_writes_no_head(store: Store, path: Path) -> None:
    """Most transactions touch no money."""
    with store.write() as session:
        add_job(session)
    assert not path.exists()


def test_what_is_rolled_back_moves_no_head(store: Store, path: Path) -> None:
    """The head names committed entries alone."""
    append(store)
    before = read_head(path)
    with pytest.raises(ZeroDivisionError), store.write() as session:
        job = add_job(session, "y")
        reserve(session, job, add_lease(session, job), 1)
        raise ZeroDivisionError
    assert read_head(path) == before


def test_the_head_is_on_the_disk_before_its_name_is(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, then name: a power cut leaves the old head or the new one, and an older one is fine."""
    append(store)
    done: list[str] = []
    real_fsync, kind = os.fsync, type(path)
    rename = kind.replace

    def fsync(descriptor: int) -> None:
        done.append("fsync")
        real_fsync(descriptor)

    def replace(partial: Path, name: Path) -> None:
        done.append("name")
        rename(partial, name)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(kind, "replace", replace)
    append(store, "y")
    assert done == ["fsync", "name"]


def test_a_head_that_lags_is_in_order_and_put_right(store: Store, path: Path) -> None:
    """As after a crash between the commit and the file."""
    append(store)
    lagging = path.read_text()
    append(store, "y")
    path.write_text(lagging)
    reopened = Store(path.with_name("costguard.db"))
    assert reopened.check_head() is HeadState.BEHIND
    assert reopened.check_head() is HeadState.SAME
    reopened.close()


def test_a_lag_from_the_very_first_entry_is_told_from_a_loss(store: Store, path: Path) -> None:
    """A daemon's start writes the head of the empty book down, so that there always is one."""
    assert store.check_head() is HeadState.MISSING
    assert read_head(path) == Head(0, GENESIS)
    empty = path.read_text()
    append(store)
    path.write_text(empty)
    assert store.check_head() is HeadState.BEHIND


def test_a_cut_tail_is_found(store: Store, path: Path) -> None:
    """The chain that is left has no fault; the file knows of more."""
    append(store)
    append(store, "y")
    cut_tail(store)
    assert store.check_head() is HeadState.CUT


def test_a_tail_that_was_cut_and_grown_over_is_found(store: Store, path: Path) -> None:
    """The number is reached again, by another entry; and the witness is not overwritten."""
    append(store)
    append(store, "y")
    witness = path.read_text()
    cut_tail(store)
    reopened = Store(path.with_name("costguard.db"))
    for name in ("z", "u"):
        append(reopened, name)
    assert reopened.check_head() is HeadState.CHANGED
    assert path.read_text() == witness
    reopened.close()


def test_a_missing_head_is_told_and_begun_anew(store: Store, path: Path) -> None:
    """Not the same as a cut: nothing is known of a tail."""
    append(store)
    path.unlink()
    assert store.check_head() is HeadState.MISSING
    assert store.check_head() is HeadState.SAME


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"schema": "x"}', '{"entry": "a"}'])
def test_a_head_that_says_nothing_is_unreadable_and_left(
    store: Store, path: Path, junk: str
) -> None:
    """A person has to look at it."""
    append(store)
    path.write_text(junk)
    reopened = Store(path.with_name("costguard.db"))
    assert reopened.check_head() is HeadState.UNREADABLE
    append(reopened, "y")
    assert path.read_text() == junk
    reopened.close()


def test_a_head_that_cannot_be_written_fails_no_commit(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The transaction is committed by then; the file lags, which is in order."""
    append(store)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write_head", full)
        append(store, "y")
    assert "No space left" in caplog.text
    assert store.check_head() is HeadState.BEHIND


def test_a_head_that_cannot_be_judged_now_fails_no_commit(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it cannot be compared it is not overwritten either."""

    def broken() -> None:
        raise StoreUnavailable("the database said: locked")

    with monkeypatch.context() as patch:
        patch.setattr(store, "read", broken)
        append(store)
    assert not path.exists()
    append(store, "y")
    assert store.check_head() is HeadState.SAME
