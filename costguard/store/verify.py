"""`ledger verify`: whether the books still are what was written into them.

Everything is added up here anew, entry by entry, and compared with what stands beside the
entries; nothing that is checked is asked to check itself. A finding is a stable word and what it
was seen at; the command line puts it into plain words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text

from costguard.store import sums
from costguard.store.head import GENESIS, Head, HeadState, compare, head_of
from costguard.store.ledger import entry_hash
from costguard.store.models import LeaseRow, LedgerEntry, LedgerSum, PowerInterval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

# What each trigger's text has to hold for it to do its work, whatever its name promises.
TRIGGERS = {
    "ledger_no_update": ("BEFORE UPDATE ON ledger BEGIN", "RAISE(ABORT"),
    "ledger_no_delete": ("BEFORE DELETE ON ledger BEGIN", "RAISE(ABORT"),
    "commands_no_update": ("BEFORE UPDATE ON commands BEGIN", "RAISE(ABORT"),
    "commands_no_delete": ("BEFORE DELETE ON commands BEGIN", "RAISE(ABORT"),
    "ledger_sums_add": ("AFTER INSERT ON ledger BEGIN", "INSERT INTO ledger_sums"),
}
HEAD_FINDINGS = {
    HeadState.MISSING: "head_missing",
    HeadState.UNREADABLE: "head_unreadable",
    HeadState.CUT: "tail_cut",
    HeadState.CHANGED: "tail_changed",
}
SLOT_MS = 900_000
SHOWN_MAX = 20  # of one kind of finding; a chain that is broken early is broken to its end
BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold: a stable word, where it was seen, and the figures."""

    code: str
    where: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found, and up to where it looked."""

    entries: int
    head: Head
    findings: tuple[Finding, ...]


@dataclass
class Books:
    """The sums that the entries themselves come to."""

    entries: int = 0
    broken: list[int] = field(default_factory=list)
    posted: Counter[int] = field(default_factory=Counter)  # by interval
    held: Counter[int] = field(default_factory=Counter)  # by lease
    lowest: dict[int, int] = field(default_factory=dict)  # by lease: the least that it ever held
    unreserved: list[int] = field(default_factory=list)  # entries that use what no lease reserved
    sums: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)


def verify(session: Session, kept: Head | HeadState) -> Verification:
    """Everything that does not hold of the books; no findings when they are sound.

    `kept` is the head that was kept outside, read before the session began (see `compare`).
    """
    books = add_up(session)
    findings = [
        *_damage(session),
        *_missing_triggers(session),
        *(Finding("entry_changed", str(entry_id)) for entry_id in books.broken[:SHOWN_MAX]),
        *_keys_twice(session),
        *_wrong_intervals(session, books),
        *_wrong_leases(session, books),
        *_wrong_sums(session, books),
        *_wrong_head(session, kept, books),
    ]
    return Verification(books.entries, head_of(session), tuple(findings))


def add_up(session: Session) -> Books:
    """One walk over the entries in their order: the chain's links, and every sum of them."""
    books = Books()
    previous = GENESIS
    columns = LedgerEntry.__table__.columns
    query = select(*columns).order_by(LedgerEntry.id)
    for entry in session.execute(query.execution_options(yield_per=BATCH)):
        books.entries += 1
        if entry.previous_hash != previous or entry.hash != entry_hash(entry):
            books.broken.append(entry.id)
        previous = entry.hash
        _post(books, entry)
    return books


def _post(books: Books, entry: Row[Any]) -> None:
    held = sums.held_micros(entry.kind, entry.amount_micros, entry.covered_micros)
    if entry.lease_id is None:
        if held:
            books.unreserved.append(entry.id)
    else:
        books.held[entry.lease_id] += held
        now = books.held[entry.lease_id]
        books.lowest[entry.lease_id] = min(books.lowest.get(entry.lease_id, 0), now)
    if entry.interval_id is not None and entry.kind in ("charge", "adjust"):
        books.posted[entry.interval_id] += entry.amount_micros
    at_ms = entry.at_ms if entry.to_ms is None else entry.to_ms
    key = (
        entry.job_id,
        entry.project,
        entry.month,
        entry.kind,
        entry.lease_id or 0,
        entry.interval_id or 0,
        -1 if entry.stage is None else entry.stage,
        entry.phase or "",
        0 if entry.interval_id is None else at_ms // SLOT_MS,
    )
    kept = books.sums.setdefault(key, [entry.id, 0, 0, 0])
    kept[1] += 1
    kept[2] += entry.amount_micros
    kept[3] += entry.covered_micros


def _damage(session: Session) -> Iterator[Finding]:
    """What SQLite itself says of its file."""
    for (said,) in session.execute(text(f"PRAGMA integrity_check({SHOWN_MAX})")):
        if said != "ok":
            yield Finding("file_damaged", "", {"said": said})
    for table, row, parent, _ in session.execute(text("PRAGMA foreign_key_check")):
        yield Finding("row_missing", f"{table} {row}", {"parent": parent})


def _missing_triggers(session: Session) -> Iterator[Finding]:
    query = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    there = {name: " ".join(sql.split()) for name, sql in session.execute(query)}
    for name, parts in TRIGGERS.items():
        if not all(part in there.get(name, "") for part in parts):
            yield Finding("trigger_missing", name)


def _keys_twice(session: Session) -> Iterator[Finding]:
    """The same thing booked twice, which the index on the keys would have refused."""
    query = select(LedgerEntry.key).group_by(LedgerEntry.key).having(func.count() > 1)
    for key in session.scalars(query.limit(SHOWN_MAX)):
        yield Finding("key_twice", key)


def _wrong_intervals(session: Session, books: Books) -> Iterator[Finding]:
    """I3: what an interval says was posted for it is what the entries come to."""
    for row in session.execute(select(PowerInterval.id, PowerInterval.posted_micros)):
        if books.posted[row.id] != row.posted_micros:
            sums = {"entries_micros": books.posted[row.id], "row_micros": row.posted_micros}
            yield Finding("interval_differs", str(row.id), sums)


def _wrong_leases(session: Session, books: Books) -> Iterator[Finding]:
    """No lease was ever charged beyond its reservation, and a settled one holds nothing."""
    for entry_id in books.unreserved[:SHOWN_MAX]:
        yield Finding("nothing_reserved", str(entry_id))
    for lease_id, lowest in books.lowest.items():
        if lowest < 0:
            yield Finding("lease_overdrawn", str(lease_id), {"micros": lowest})
    settled = select(LeaseRow.id).where(LeaseRow.state == "settled")
    for lease_id in session.scalars(settled):
        if books.held[lease_id] > 0:
            yield Finding("lease_not_empty", str(lease_id), {"micros": books.held[lease_id]})


def _wrong_sums(session: Session, books: Books) -> Iterator[Finding]:
    """The sums that reports and grants are made from are those of the entries."""
    columns = LedgerSum.__table__.columns
    left = dict(books.sums)
    wrong: list[tuple[Any, ...]] = []
    for row in session.execute(select(*columns)):
        key, sums = tuple(row[:9]), list(row[9:])
        if left.pop(key, None) != sums:
            wrong.append(key)
    return _shown("sum_differs", [*wrong, *left])


def _shown(code: str, keys: Iterable[tuple[Any, ...]]) -> Iterator[Finding]:
    for key in list(keys)[:SHOWN_MAX]:
        yield Finding(code, " ".join(str(part) for part in key if part not in (0, -1, "")))


def _wrong_head(session: Session, kept: Head | HeadState, books: Books) -> Iterator[Finding]:
    state = compare(session, kept)
    if state.is_sound or (state is HeadState.MISSING and books.entries == 0):
        return
    data = {"entry": kept.entry_id} if isinstance(kept, Head) else {}
    yield Finding(
        HEAD_FINDINGS[state], "ledger.head", {**data, "newest": head_of(session).entry_id}
    )
