from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from costguard.store import ledger
from costguard.store.database import Store, read_only_session
from costguard.store.head import Head, HeadState, compare, head_of, head_path, read_head
from costguard.store.verify import verify
from tests.store.crash_case import digest
from tests.store.rows import YUAN, add_interval, add_job, add_lease, charge, reserve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FULL = bool(os.environ.get("COSTGUARD_TEST_FULL"))
CUTS = 1_000 if FULL else 40
COMMITS = 25
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24  # the file format's, section "The WAL file format"


@dataclass(frozen=True)
class Books:
    """A database whose log was never folded in, and what it said after each commit."""

    database: Path
    log: bytes
    ends: list[int]  # the log's length after each commit
    digests: list[str]  # one more than commits: the first is of the empty books
    heads: list[Head]
    kept: Head | HeadState  # the head that was kept outside, after the last commit
    page_size: int


@pytest.fixture(scope="module")
def books(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Books:
    """Some jobs' lives: reservations, charges and settlements, each in a commit of its own."""
    folder = tmp_path_factory.mktemp("wal")
    path, shown = folder / "costguard.db", folder / "shown.db"
    shutil.copy(empty_database, path)
    store = Store(path)

    @event.listens_for(store._writer, "connect")
    def _never_fold(connection: object, _record: object) -> None:
        connection.execute("PRAGMA wal_autocheckpoint=0")  # type: ignore[attr-defined]

    digests, heads, ends = [digest(path)], [Head(0, "0" * 64)], []
    log = path.with_name("costguard.db-wal")
    for number in range(COMMITS):
        with store.write() as session:
            job = add_job(session, f"任务 {number}")
            lease, interval = add_lease(session, job), add_interval(session, job)
            reserve(session, job, lease, 50)
            for owed in range(1, 1 + number % 7):
                charge(session, job, interval, lease, owed)
            if number % 3 == 0:
                ledger.settle(session, job, lease, 5, "2026-11")
        ends.append(log.stat().st_size)
        shutil.copy(path, shown)
        shutil.copy(log, shown.with_name("shown.db-wal"))
        digests.append(digest(shown))
        with store.read() as session:
            heads.append(head_of(session))
            page_size = session.connection().exec_driver_sql("PRAGMA page_size").scalar_one()
    kept, body = read_head(head_path(path)), log.read_bytes()
    main = folder / "main.db"
    shutil.copy(path, main)
    store.close()
    return Books(main, body, ends, digests, heads, kept, page_size)


def cut(log: bytearray, at: int, _chance: random.Random) -> None:
    """The tail never reached the disk."""
    del log[at:]


def zero(log: bytearray, at: int, _chance: random.Random) -> None:
    """The file's length did, what it holds did not."""
    log[at:] = bytes(len(log) - at)


def tear(log: bytearray, at: int, chance: random.Random) -> None:
    """One sector of garbage; what follows is whole, and must not be believed."""
    size = min(512, len(log) - at)
    log[at : at + size] = bytes(byte ^ chance.randrange(1, 256) for byte in log[at : at + size])


@pytest.mark.parametrize("harm", [cut, zero, tear])
def test_a_torn_log_loses_its_end_alone(
    books: Books, harm: Callable[[bytearray, int, random.Random], None], tmp_path: Path
) -> None:
    """Every commit before the tear survives, nothing after it is half there, the books hold.

    The head outside tells that something was lost exactly when something was.
    """
    chance = random.Random(harm.__name__)
    lost = 0
    for number in range(-(-CUTS // 3)):
        at = chance.randrange(1, len(books.log))
        path = tmp_path / f"{number}.db"
        log = bytearray(books.log)
        harm(log, at, chance)
        shutil.copy(books.database, path)
        path.with_name(f"{number}.db-wal").write_bytes(log)
        unharmed = [
            end <= at or (harm is zero and not any(books.log[at:end])) for end in books.ends
        ]
        whole = sum(unharmed)
        Store(path).close()  # the first writer's recovery, and its log folded in
        assert digest(path) == books.digests[whole], (number, at)
        with read_only_session(path) as session:
            assert verify(session, books.heads[whole]).findings == ()
            state = compare(session, books.kept)
        assert state is (HeadState.SAME if whole == COMMITS else HeadState.CUT)
        lost += whole < COMMITS
        path.unlink()
    assert lost > 0


def test_a_cut_between_two_commits_loses_exactly_the_later_ones(
    books: Books, tmp_path: Path
) -> None:
    """At each boundary, a byte before it and a byte after it."""
    for number, end in enumerate(books.ends):
        for at in (end - 1, end, end + 1):
            path = tmp_path / f"{at}.db"
            shutil.copy(books.database, path)
            path.with_name(f"{at}.db-wal").write_bytes(books.log[:at])
            with read_only_session(path) as session:
                held = head_of(session)
            assert held == books.heads[number + (at >= end)]


def test_the_log_of_the_test_is_what_it_is_meant_to_be(books: Books) -> None:
    """Whole frames, many of them, none folded in; each commit says something new."""
    frame = FRAME_HEADER_BYTES + books.page_size
    assert all((end - WAL_HEADER_BYTES) % frame == 0 for end in books.ends)
    assert len(books.log) == books.ends[-1] > COMMITS * 5 * frame
    assert len(set(books.digests)) == COMMITS + 1
    assert books.kept == books.heads[-1]
    assert books.heads[-1].entry_id > 2 * COMMITS


def test_what_was_committed_before_the_power_went_is_there(books: Books, tmp_path: Path) -> None:
    """The whole log: all money is where it was."""
    path = tmp_path / "whole.db"
    shutil.copy(books.database, path)
    path.with_name("whole.db-wal").write_bytes(books.log)
    with read_only_session(path) as session:
        assert verify(session, books.kept).findings == ()
        charged = sum(number % 7 for number in range(COMMITS))
        assert ledger.posted_micros(session) == charged * YUAN
