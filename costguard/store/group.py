"""Writers that come at the same moment share one commit, and so one wait for the disk.

Each has a savepoint of its own, so that one that fails takes nothing of another's with it; none
returns before all that it wrote is on the disk. With a thousand jobs the disk's waits are what a
pass would take longest for otherwise.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from costguard.store.ledger import HEAD

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from costguard.store.head import Head

MOST_WRITERS = 32  # a first one waits for no more than so many others


class RolledBack(Exception):
    """The database gave up the whole transaction by itself, as it may when the disk is full."""


class Group:
    """One transaction, begun by the first writer and ended by the last."""

    def __init__(self, connection: Connection) -> None:
        """Begin on `connection`; it is closed with the group."""
        self._connection = connection
        try:
            self._transaction = connection.begin()
        except BaseException:
            connection.close()
            raise
        self._writers = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.head: Head | None = None  # the newest entry of the ledger, if one was appended

    def session(self) -> Session:
        """A session for one more writer: its own commit ends no more than its savepoint."""
        self._writers += 1
        return Session(
            self._connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )

    def keep(self, session: Session) -> None:
        """This writer is done, without a fault."""
        self.head = session.info.get(HEAD) or self.head

    @property
    def takes_more(self) -> bool:
        """Whether another writer may join."""
        return self._writers < MOST_WRITERS and self._is_alive()

    def end(self) -> None:
        """Commit, and let every writer know how it went; raises nothing."""
        try:
            self._commit()
        except BaseException as error:  # noqa: BLE001  (each writer raises it, in its own thread)
            self._error = error
            self._connection.invalidate()  # whatever it still holds open, no one goes on in it
        finally:
            self._connection.close()

    def _commit(self) -> None:
        if not self._is_alive():  # Python's sqlite3 would commit nothing, and not say so
            raise RolledBack("the whole transaction was rolled back by the database")
        self._transaction.commit()

    def tell(self) -> None:
        """Let the writers go on: all is done that they waited for."""
        self._ended.set()

    @property
    def is_committed(self) -> bool:
        """Whether it ended well."""
        return self._error is None

    def wait(self, for_s: float) -> bool:
        """Whether all is on the disk, which is waited for so long; raises what went wrong."""
        if not self._ended.wait(for_s):
            return False
        if self._error is not None:
            raise self._error
        return True

    def _is_alive(self) -> bool:
        raw = self._connection.connection.driver_connection
        assert raw is not None, "an open group has a connection"
        return bool(raw.in_transaction)
