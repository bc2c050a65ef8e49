"""One SQLite file, opened so that what was committed survives a power cut.

WAL with synchronous=FULL: in WAL the cheaper NORMAL may lose the last commits when the power
fails, and a ledger at a few writes a second has no use for that saving. Writers take the write
lock at BEGIN (`BEGIN IMMEDIATE`), because a check followed by an insert must be one transaction;
Python's sqlite3 by itself would begin only at the insert.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from costguard.errors import CostguardError
from costguard.store.group import Group, RolledBack
from costguard.store.head import Head, HeadState, compare, head_of, head_path, read_head, write_head
from costguard.store.ledger import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger("costguard.store")

BUSY_TIMEOUT_MS = 5_000
HEIRLESS_S = 1.0  # after so long a writer looks whether the group that it waits for has an heir


class StoreUnavailable(CostguardError):
    """The database could not be read or written: disk full, locked, read-only or damaged."""


def engine_for(path: Path, *, read_only: bool = False) -> Engine:
    """An engine on the file at `path` with costguard's settings on every connection.

    Read-only engines never create the file and never write, whoever asks.
    """
    mode = "ro" if read_only else "rwc"

    def connect() -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            uri,
            uri=True,
            isolation_level=None,  # transactions are begun by the hook below, and only there
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_MS / 1000,
        )
        cursor = connection.cursor()
        if not read_only:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            # The log keeps the size of its largest checkpoint otherwise, for ever.
            cursor.execute("PRAGMA journal_size_limit=4194304")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


class Store:
    """The daemon's way to the database: one writer at a time, readers beside it."""

    _is_forced = True  # the head waits for the disk; the simulator's need not

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = engine_for(path)
        self._reader = engine_for(path, read_only=True)
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0  # writers that wait for the lock
        self._group: Group | None = None  # of the writer before, open for the next one
        self._head_is_sound: bool | None = None  # not looked at yet

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session in one immediate transaction: all of it is committed, or nothing.

        Raises StoreUnavailable when the database cannot take it. Who finds others waiting shares
        its commit with them, see `store/group.py`.
        """
        with self._turn():
            if self._group is None and not self._waiting:
                with Session(self._writer, expire_on_commit=False) as session:
                    with _translated(), session.begin():
                        yield session
                    head = session.info.get(HEAD)
                    if head is not None:
                        self._keep_head(head)
                return
            with _translated():
                group = self._group = self._group or Group(self._writer.connect())
            try:
                with _translated(), group.session() as session:
                    with session.begin():
                        yield session
                    group.keep(session)
            finally:
                self._pass_on(group)
        with _translated():
            while not group.wait(HEIRLESS_S):
                self._end_heirless(group)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Alone with the writer's connection; the others know that somebody waits for it."""
        with self._counting:
            self._waiting += 1
        try:
            self._lock.acquire()
        finally:  # an interrupt may come while it waits
            with self._counting:
                self._waiting -= 1
        try:
            yield
        finally:
            self._lock.release()

    def _pass_on(self, group: Group) -> None:
        """Leave the group to the next writer, if one waits; else commit it."""
        if self._waiting and group.takes_more:
            return
        self._group = None
        self._end(group)

    def _end_heirless(self, group: Group) -> None:
        """Commit a group that was left to a writer who never came: it was interrupted meanwhile."""
        if not self._lock.acquire(blocking=False):
            return  # whoever is inside has it, and passes it on
        try:
            if self._group is group:
                self._group = None
                self._end(group)
        finally:
            self._lock.release()

    def _end(self, group: Group) -> None:
        group.end()
        try:
            if group.is_committed and group.head is not None:
                self._keep_head(group.head)
        finally:
            group.tell()

    def check_head(self) -> HeadState:
        """How the head kept outside the database compares with it, which is told once.

        A head that lags behind is brought up to date, and one that is missing is begun. One that
        knows of more than the database is left as it is, for as long as it lies there: it is the
        only witness of what was lost.
        """
        path = head_path(self._path)
        kept = read_head(path)
        with self._lock, self.read() as session:
            state, newest = compare(session, kept), head_of(session)
            self._head_is_sound = state.is_sound or state is HeadState.MISSING
            if state in (HeadState.BEHIND, HeadState.MISSING):
                self._write_head(newest)
        return state

    def _keep_head(self, head: Head) -> None:
        """Write the new head down, after the commit. A failure leaves it behind, which is fine.

        The transaction is committed by now, and must not be told as one that is not.
        """
        if self._head_is_sound is None:
            try:
                with self.read() as session:
                    state = compare(session, read_head(head_path(self._path)))
            except StoreUnavailable:
                return  # not to be judged now; the next append looks again
            self._head_is_sound = state.is_sound or state is HeadState.MISSING
        if self._head_is_sound:
            self._write_head(head)

    def _write_head(self, head: Head) -> None:
        try:
            write_head(head_path(self._path), head, forced=self._is_forced)
        except OSError as error:
            log.warning("the ledger's head was not written down: %s", error.strerror)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only session on one consistent state."""
        with (
            _translated(),
            Session(self._reader, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Close every connection; the WAL is folded into the file by the last one."""
        self._reader.dispose()
        self._writer.dispose()


@contextmanager
def read_only_session(path: Path) -> Iterator[Session]:
    """A session for the command line to read with when no daemon runs."""
    engine = engine_for(path, read_only=True)
    try:
        with _translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    finally:
        engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # a broken rule of the schema is a bug of ours, not a fault of the disk
    except DatabaseError as error:
        raise StoreUnavailable(f"the database said: {error.orig or error}") from error
    except RolledBack as error:
        raise StoreUnavailable(f"the database said: {error}") from error
