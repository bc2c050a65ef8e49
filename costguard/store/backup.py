"""A copy of the books while the daemon runs, and the way back from one.

`VACUUM INTO` reads one consistent state beside any writer. A backup is one file that stands for
itself: the head that is kept outside the database travels inside it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.errors import EXIT_INTERNAL, EXIT_USAGE, UserError
from costguard.store.database import Store, StoreUnavailable, read_only_session
from costguard.store.head import (
    Head,
    HeadState,
    head_of,
    head_path,
    read_head,
    sync_folder,
    write_head,
)
from costguard.store.migrate import upgrade
from costguard.store.models import Meta
from costguard.store.restored import mark_restored
from costguard.store.verify import Verification, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "backup"
TABLES = {"alembic_version", "meta", "jobs", "ledger", "leases", "power_intervals"}
SIDES = ("-wal", "-shm")
MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has done."""

    entries: int
    taken_ms: int | None  # None: the file was no backup of ours, but a plain copy of a database
    aside: Path | None  # where the database that was replaced is now


def back_up(database: Path, target: Path, now_ms: int) -> Verification:
    """Copy `database` to `target`, which must not exist; what was found wrong in the copy.

    The copy is verified and on the disk before it bears its name. A copy of books with a fault is
    kept all the same: it may be the best that there is.
    """
    if target.exists():
        raise _error("target_exists", "this file exists already", target, "name a new one")
    if not database.exists():
        raise _error("nothing_here", "there is no database yet", database, "submit a job first")
    partial = target.with_name(f"{target.name}.partial")
    kept = read_head(head_path(database))  # before the copy: it cannot be ahead of it
    try:
        _copy(database, partial)
        found = _stamp(partial, kept, now_ms)
        _sync(partial)
        os.link(partial, target)  # fails if the name was taken meanwhile; a rename would not
        sync_folder(target.parent)
    except (OSError, sqlite3.Error, StoreUnavailable) as error:
        raise _error("backup_failed", f"no backup was made: {error}", target, _SPACE) from error
    finally:
        for name in _with_sides(partial):
            name.unlink(missing_ok=True)
    return found


def restore(database: Path, source: Path, now_ms: int) -> Restored:
    """Put `source` in the place of `database`, once it is proven sound. No daemon may run.

    The database that is replaced is kept aside. The one that takes its place grants nothing until
    every account has been listed. A crash at any point leaves the old database or the new one.
    """
    _require_costguard(source)
    new = database.with_name(f"{database.name}.restoring")
    try:
        _copy(source, new)
        taken_ms, entries = _prepare(new, source, now_ms)
        _sync(new)
        aside = _set_aside(database, now_ms)
        new.replace(database)
        sync_folder(database.parent)
    except (OSError, sqlite3.Error, StoreUnavailable) as error:
        raise _error("restore_failed", f"nothing was restored: {error}", source, _SPACE) from error
    finally:
        for name in _with_sides(new):
            name.unlink(missing_ok=True)
    with read_only_session(database) as session:
        write_head(head_path(database), head_of(session))
    sync_folder(database.parent)  # the old head would be ahead, as if entries were lost
    return Restored(entries, taken_ms, aside)


_SPACE = "check that there is room, and that both folders can be written"


def _copy(source: Path, target: Path) -> None:
    """One consistent state of `source` as a new file, readable by its owner alone."""
    for name in _with_sides(target):
        name.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as plain:
        plain.execute("VACUUM INTO ?", (str(target),))


def _stamp(copy: Path, kept: Head | HeadState, now_ms: int) -> Verification:
    """Write the head into the copy, and verify what is there now."""
    with read_only_session(copy) as session:
        found = verify(session, kept)
    # Where the outside head knows of more than the copy has, it stays the witness of that.
    sound = not any(each.where == "ledger.head" for each in found.findings)
    head = kept if isinstance(kept, Head) and not sound else found.head
    facts = {"taken_ms": now_ms, "entry": head.entry_id, "hash": head.hash}
    with closing(sqlite3.connect(copy)) as plain, plain:
        plain.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (KEY, json.dumps(facts)))
    return found


def _require_costguard(source: Path) -> None:
    """UserError for what is not a database of ours; nothing was touched by then."""
    tables: set[str] = set()
    if source.is_file():
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as plain,
        ):
            tables = {name for (name,) in plain.execute("SELECT name FROM sqlite_master")}
    if not tables >= TABLES:
        what = "this is no backup of costguard; nothing was changed"
        raise _error("not_a_backup", what, source, "name a file that `costguard backup` wrote")


def _prepare(new: Path, source: Path, now_ms: int) -> tuple[int | None, int]:
    """Bring the copy to today's schema, prove it sound, and mark it as put back."""
    upgrade(new)
    with read_only_session(new) as session:
        row = session.get(Meta, KEY)
        facts = None if row is None else json.loads(row.value)
        kept = head_of(session) if facts is None else Head(facts["entry"], facts["hash"])
        found = verify(session, kept)
    if found.findings:
        codes = ", ".join(sorted({each.code for each in found.findings}))
        what = f"these books do not hold ({codes}); nothing was changed"
        raise _error("backup_unsound", what, source, "take an older backup")
    store = Store(new)
    try:
        with store.write() as session:
            mark_restored(session, now_ms)
            row = session.get(Meta, KEY)
            if row is not None:
                session.delete(row)
    finally:
        store.close()
    return (None if facts is None else int(facts["taken_ms"])), found.entries


def _set_aside(database: Path, now_ms: int) -> Path | None:
    """Keep the database that is about to be replaced, under a name of its own, with its head.

    Its log is folded into it first: a log that lies beside another database would be played into
    that one.
    """
    if not database.exists():
        return None
    aside = database.with_name(f"{database.name}.replaced-{now_ms}")
    with database.open("rb") as stream:
        is_database = stream.read(len(MAGIC)) == MAGIC
    if is_database:  # SQLite deletes the log of an empty file
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as plain:
            plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for side in SIDES:  # left only where the database could not be opened
        log = database.with_name(database.name + side)
        if log.exists():
            log.replace(aside.with_name(aside.name + side))
    head = head_path(database)
    if head.exists():
        head.replace(head.with_name(f"{head.name}.replaced-{now_ms}"))
    os.link(database, aside)
    return aside


def _with_sides(database: Path) -> Iterator[Path]:
    yield database
    for side in (*SIDES, "-journal"):
        yield database.with_name(database.name + side)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _error(code: str, what: str, where: Path, hint: str) -> UserError:
    usage = ("target_exists", "nothing_here", "not_a_backup")
    exit_code = EXIT_USAGE if code in usage else EXIT_INTERNAL
    return UserError(code, what, str(where), hint, exit_code)
