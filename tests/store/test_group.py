"""Writers that come at the same moment: one commit for all, and each for itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, select

from costguard.store.database import Store, StoreUnavailable
from costguard.store.head import Head
from costguard.store.ledger import HEAD
from costguard.store.models import Meta

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

WRITERS = 8
WAIT_S = 10.0


class Crowd:
    """Writers that all stand before the store while a first one is inside."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.commits = 0

        @event.listens_for(store._writer, "commit")
        def _count(_: object) -> None:
            self.commits += 1

    def write(self, bodies: list[Callable[[Session], None]]) -> list[BaseException | None]:
        """What each raised, in order; the first is kept inside until the others wait."""
        inside, go = threading.Event(), threading.Event()

        def first(session: Session) -> None:
            session.connection()
            inside.set()
            assert go.wait(WAIT_S)
            bodies[0](session)

        def run(body: Callable[[Session], None]) -> None:
            with self.store.write() as session:
                body(session)

        with ThreadPoolExecutor(len(bodies)) as pool:
            futures = [pool.submit(run, first)]
            assert inside.wait(WAIT_S)
            futures += [pool.submit(run, body) for body in bodies[1:]]
            while self.store._waiting < len(bodies) - 1:
                threading.Event().wait(0.001)
            go.set()
            return [future.exception(WAIT_S) for future in futures]


@pytest.fixture
def crowd(store: Store) -> Crowd:
    """A crowd before the test's store."""
    return Crowd(store)


def adds(number: int) -> Callable[[Session], None]:
    """A body that writes one row."""

    def body(session: Session) -> None:
        session.add(Meta(key=f"row {number}", value="there"))

    return body


def rows(store: Store) -> set[str]:
    """The rows that are there."""
    with store.read() as session:
        return set(session.scalars(select(Meta.key).where(Meta.key.like("row %"))))


def test_those_who_wait_together_share_a_commit(store: Store, crowd: Crowd) -> None:
    """The one that was inside commits by itself; all that waited for it, once."""
    assert crowd.write([adds(number) for number in range(WRITERS)]) == [None] * WRITERS
    assert rows(store) == {f"row {number}" for number in range(WRITERS)}
    assert crowd.commits == 2


class Interrupting:
    """A lock in which one thread's wait is interrupted, once the one inside has let go."""

    def __init__(self, lock: threading.Lock, victim: str, freed: threading.Event) -> None:
        self._lock, self._victim, self._freed = lock, victim, freed
        self.released = 0

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT002  (the lock's own)
        """As the real one."""
        if threading.current_thread().name == self._victim:
            assert self._freed.wait(WAIT_S)
            raise KeyboardInterrupt
        return self._lock.acquire(blocking)

    def __enter__(self) -> None:
        """As the real one."""
        self.acquire()

    def __exit__(self, *_: object) -> None:
        """As the real one."""
        self.release()

    def release(self) -> None:
        """As the real one."""
        self._lock.release()
        self.released += 1


def test_a_group_whose_heir_was_interrupted_is_committed_all_the_same(store: Store) -> None:
    """It was passed on to a writer that waited, and Ctrl-C took that one away: nobody else came."""
    left, go, inside = threading.Event(), threading.Event(), threading.Event()
    lock = Interrupting(store._lock, "heir", left)
    store._lock = lock  # type: ignore[assignment]  # the same, but for one thread's interrupt
    told: list[str] = []

    def first() -> None:
        with store.write() as session:
            session.connection()
            inside.set()
            assert go.wait(WAIT_S)

    def second() -> None:
        with store.write() as session:
            adds(2)(session)
        told.append("second")

    def heir() -> None:
        try:
            with store.write():
                told.append("never")
        except KeyboardInterrupt:
            told.append("interrupted")

    threads = [threading.Thread(target=body, name=body.__name__) for body in (first, second, heir)]
    threads[0].start()
    assert inside.wait(WAIT_S)
    for thread in threads[1:]:
        thread.start()
    while store._waiting < 2:
        threading.Event().wait(0.001)
    go.set()
    while lock.released < 2:  # the second has gone, and left its group to the heir
        threading.Event().wait(0.001)
    left.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(told) == ["interrupted", "second"]
    assert rows(store) == {"row 2"}
    assert store._waiting == 0


def test_one_that_fails_takes_nothing_of_the_others_with_it(store: Store, crowd: Crowd) -> None:
    """Neither by an error of its own nor by one that the database raises."""

    def fails(session: Session) -> None:
        adds(100)(session)
        session.flush()
        raise ValueError("a bug")

    def breaks_a_rule(session: Session) -> None:
        adds(101)(session)
        session.flush()
        adds(0)(session)  # the same key as the first one's

    found = crowd.write([adds(0), adds(1), fails, adds(2), breaks_a_rule, adds(3)])
    assert [type(error).__name__ for error in found if error] == ["ValueError", "IntegrityError"]
    assert rows(store) == {"row 0", "row 1", "row 2", "row 3"}


def test_the_last_one_failing_still_commits_what_the_others_wrote(
    store: Store, crowd: Crowd
) -> None:
    """It is the last that ends the transaction, whatever became of its own part."""

    def fails(_: Session) -> None:
        raise ValueError("a bug")

    found = crowd.write([adds(0), adds(1), fails])
    assert [error is None for error in found] == [True, True, False]
    assert rows(store) == {"row 0", "row 1"}


def test_a_commit_that_fails_is_told_to_everyone_in_it(store: Store, crowd: Crowd) -> None:
    """Nobody goes on as if its rows were there."""
    commits = []

    @event.listens_for(store._writer, "commit")
    def _second_fails(connection: object) -> None:
        commits.append(connection)
        if len(commits) == 2:
            raise OSError("the disk is gone")

    found = crowd.write([adds(0), adds(1), adds(2)])
    assert [type(error) for error in found] == [type(None), OSError, OSError]
    assert rows(store) == {"row 0"}
    with store.write() as session:
        adds(3)(session)
    assert rows(store) == {"row 0", "row 3"}


def test_what_the_database_rolled_back_by_itself_is_nobodys(store: Store, crowd: Crowd) -> None:
    """As it may when the disk is full: then what was written before in this group is gone too."""

    def gives_up(session: Session) -> None:
        raw = session.connection().connection.driver_connection
        assert raw is not None
        raw.rollback()
        raise StoreUnavailable("the database said: disk full")

    found = crowd.write([adds(0), adds(1), gives_up, adds(2)])
    assert found[0] is None
    assert isinstance(found[2], StoreUnavailable)
    kept = {f"row {row}" for row, place in ((0, 0), (1, 1), (2, 3)) if found[place] is None}
    assert rows(store) == kept


def test_the_head_is_written_once_for_all_and_only_after_the_commit(
    store: Store, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that runs ahead of the database would look like a tail that was cut off."""
    written: list[tuple[int, int]] = []
    monkeypatch.setattr(
        store, "_keep_head", lambda head: written.append((crowd.commits, head.entry_id))
    )

    def appends(number: int) -> Callable[[Session], None]:
        def body(session: Session) -> None:
            adds(number)(session)
            session.info[HEAD] = Head(number, "hash")

        return body

    def fails(session: Session) -> None:
        appends(9)(session)
        raise ValueError("a bug")

    crowd.write([appends(1), appends(2), appends(3), fails])
    first, *rest = written
    assert first == (1, 1)
    assert [commits for commits, _ in rest] == [2]
    assert rest[0][1] in (2, 3)
