"""The ledger's head, kept outside the database too, so that a tail that was cut off is missed.

The chain alone finds every entry that was changed or taken from its midst, but a ledger whose
newest entries are gone is a shorter chain without a fault. So the newest entry's number and hash
stand in a small file beside the database, written after each commit that appends. The order
matters: after a crash the file may lag behind the database, which is in order and put right; it
can never be ahead of it, unless entries were lost.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.store.models import LedgerEntry

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

GENESIS = "0" * 64
SCHEMA = "costguard.ledger_head/1"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry: its number and its hash; entry 0 and the genesis hash of an empty book."""

    entry_id: int
    hash: str


class HeadState(str, Enum):
    """How the head that was kept outside compares with the database."""

    SAME = "same"
    BEHIND = "behind"  # the database went on since, as after a crash: in order
    MISSING = "missing"  # no file: nothing is known of a tail
    UNREADABLE = "unreadable"  # a file that says nothing
    CUT = "cut"  # the database ends before the entry that the file names
    CHANGED = "changed"  # the entry that the file names is another one

    @property
    def is_sound(self) -> bool:
        """Whether the database has all that the file knows of."""
        return self in (HeadState.SAME, HeadState.BEHIND)


def head_path(database: Path) -> Path:
    """Where the head of this database is kept."""
    return database.with_name("ledger.head")


def head_of(session: Session) -> Head:
    """The newest entry of the database."""
    query = select(LedgerEntry.id, LedgerEntry.hash).order_by(LedgerEntry.id.desc()).limit(1)
    row = session.execute(query).one_or_none()
    return Head(0, GENESIS) if row is None else Head(row.id, row.hash)


def write_head(path: Path, head: Head, *, forced: bool = True) -> None:
    """Have `path` name `head`, all of the new file or the old, also after a power cut if `forced`.

    The content is forced, or the name could come to stand for an empty file. The name is not: a
    power cut that undoes it leaves the old head, which lags behind and is put right.
    """
    document = {"schema": SCHEMA, "entry": head.entry_id, "hash": head.hash}
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(json.dumps(document) + "\n")
        stream.flush()
        if forced:
            os.fsync(stream.fileno())
    partial.replace(path)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` survive a power cut, where its file system can promise that."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # some network file systems refuse it
        os.fsync(descriptor)
    os.close(descriptor)


def read_head(path: Path) -> Head | HeadState:
    """The head that the file names; MISSING or UNREADABLE where it names none."""
    try:
        document = json.loads(path.read_text(encoding="ascii"))
        if document["schema"] == SCHEMA:
            return Head(int(document["entry"]), str(document["hash"]))
    except FileNotFoundError:
        return HeadState.MISSING
    except (OSError, ValueError, KeyError, TypeError):
        return HeadState.UNREADABLE
    return HeadState.UNREADABLE


def compare(session: Session, kept: Head | HeadState) -> HeadState:
    """How `kept` compares with the database. It has to be read before the session begins.

    Otherwise a daemon that appends in between would look like one whose tail was cut.
    """
    if isinstance(kept, HeadState):
        return kept
    newest = head_of(session)
    if kept == newest:
        return HeadState.SAME
    if kept.entry_id > newest.entry_id:
        return HeadState.CUT
    if kept.entry_id == 0:
        return HeadState.BEHIND
    there = session.scalar(select(LedgerEntry.hash).where(LedgerEntry.id == kept.entry_id))
    return HeadState.BEHIND if there == kept.hash else HeadState.CHANGED
