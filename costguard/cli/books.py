"""`ledger verify`, `ledger export`, `backup`, `restore` and `confirm-stopped`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from costguard import paths
from costguard.cli.client import ask_daemon
from costguard.cli.reading import print_json
from costguard.cli.text import print_lines
from costguard.core.money import yuan_text
from costguard.errors import EXIT_INTERNAL, EXIT_USAGE, UserError
from costguard.lang import _

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sqlalchemy.orm import Session

    from costguard.store.verify import Finding, Verification

FORMATS = ("csv", "hledger", "beancount")
CONFIRM_TIMEOUT_S = 60.0


def verify_ledger(*, as_json: bool) -> int:
    """Say whether the books hold; exit code 1 if they do not."""
    from costguard.store.database import read_only_session
    from costguard.store.head import head_path, read_head
    from costguard.store.verify import verify

    database = _database()
    kept = read_head(head_path(database))  # before the session: see `compare`
    with read_only_session(database) as session:
        found = verify(session, kept)
    return _tell(found, "costguard.ledger_verify/1", {}, as_json=as_json)


def export_ledger(form: str, out: Path | None) -> int:
    """Write every entry in one of the formats, to a new file or to standard output."""
    from costguard.store.database import read_only_session

    if form not in FORMATS:
        what = _("{value} is none of {expected}").format(
            value=repr(form), expected=", ".join(FORMATS)
        )
        raise UserError("usage", what, "--format", "", EXIT_USAGE)
    with read_only_session(_database()) as session:
        chunks = _chunks(session, form)
        if out is None:
            for chunk in chunks:
                sys.stdout.write(chunk)
            return 0
        try:
            # A spreadsheet takes a CSV without the mark for GBK text, and garbles every name.
            encoding = "utf-8-sig" if form == "csv" else "utf-8"
            with out.open("x", encoding=encoding, newline="") as stream:
                out.chmod(0o600)
                stream.writelines(chunks)
        except OSError as error:
            what = _("this file cannot be written: {why}").format(why=error.strerror or error)
            hint = _("name a new file in a folder of yours")
            raise UserError("not_written", what, str(out), hint, EXIT_USAGE) from error
    print(_("written: {path}").format(path=out), file=sys.stderr)
    return 0


def _chunks(session: Session, form: str) -> Iterator[str]:
    from costguard.report.ledger_csv import csv_chunks
    from costguard.report.ledger_journal import beancount_chunks, hledger_chunks
    from costguard.report.ledger_lines import ledger_lines
    from costguard.settings import load_settings

    zone = ZoneInfo(load_settings().timezone)
    if form == "csv":
        return csv_chunks(ledger_lines(session, zone))
    journal = hledger_chunks if form == "hledger" else beancount_chunks
    return journal(lambda: ledger_lines(session, zone))


def back_up(file: Path, *, as_json: bool) -> int:
    """Copy the database to `file`, verified; exit code 1 if the copied books do not hold."""
    from costguard.store import backup

    found = backup.back_up(_database(), file.absolute(), _now_ms())
    return _tell(found, "costguard.backup/1", {"file": str(file.absolute())}, as_json=as_json)


def restore(file: Path, *, as_json: bool) -> int:
    """Put `file` in the database's place; the daemon must not run."""
    from costguard.report.figures import time_text
    from costguard.store import backup

    home = paths.ensure_home()
    with _no_daemon(home):
        done = backup.restore(paths.database_path(), file.absolute(), _now_ms())
    if as_json:
        document = {
            "schema": "costguard.restore/1",
            "file": str(file.absolute()),
            "taken_at": time_text(done.taken_ms),
            "entries": done.entries,
            "replaced": None if done.aside is None else str(done.aside),
        }
        print_json(document)
        return 0
    lines = [_("restored: {count} entries").format(count=done.entries)]
    if done.aside is not None:
        lines.append(_("the database that was there is now {path}").format(path=done.aside))
    lines.append(_("nothing is granted until every account has been listed by the daemon"))
    print_lines(lines)
    return 0


def confirm_stopped(job: str, at: str, *, as_json: bool) -> int:
    """Pass a person's word on to the daemon; a time without an offset is local time."""
    answer = ask_daemon("confirm_stopped", {"job": job, "at": _with_offset(at)}, CONFIRM_TIMEOUT_S)
    if as_json:
        print_json(answer)
        return 0
    print_lines(
        [
            _("{job}: attested as stopped at {time}; corrected by {yuan} yuan").format(
                job=job, time=answer["attested_at"], yuan=answer["adjusted_yuan"]
            ),
            _("shown as attested, never as proven; if the platform says otherwise, it is metered"),
        ]
    )
    return 0


def _tell(found: Verification, schema: str, document: Mapping[str, Any], *, as_json: bool) -> int:
    """The outcome of a verification, as a document or in words; the exit code."""
    texts = finding_texts()
    lines = [_finding_text(texts, each) for each in found.findings]
    if as_json:
        findings = [
            {"code": each.code, "where": each.where, "what": line}
            for each, line in zip(found.findings, lines, strict=True)
        ]
        head = {"entry": found.head.entry_id, "hash": found.head.hash}
        ok = not findings
        print_json(
            {"schema": schema, **document, "ok": ok, "entries": found.entries}
            | {"head": head, "findings": findings}
        )
    elif lines:
        print_lines([_("THE BOOKS DO NOT HOLD:"), *(f"  - {line}" for line in lines)])
    else:
        text = _("the books hold: {count} entries, the newest with hash {hash}")
        print_lines([text.format(count=found.entries, hash=found.head.hash[:16])])
        if "file" in document:
            print_lines([_("written: {path}").format(path=document["file"])])
    return EXIT_INTERNAL if found.findings else 0


def finding_texts() -> dict[str, str]:
    """Plain words for each kind of finding; `where` and the finding's figures fill them in."""
    return {
        "file_damaged": _("the database file is damaged: {said}; restore a backup"),
        "row_missing": _("row {where} refers to a row of {parent} that is not there"),
        "trigger_missing": _("the guard {where} is gone: the database no longer refuses changes"),
        "entry_changed": _("entry {where} was changed, or the one before it was"),
        "key_twice": _("the same thing was booked twice, under the key {where}"),
        "interval_differs": _(
            "power interval {where} says {row_yuan} yuan were posted, its entries {entries_yuan}"
        ),
        "nothing_reserved": _("entry {where} uses a reservation, but names no lease"),
        "lease_overdrawn": _("lease {where} was charged {yuan} yuan beyond its reservation"),
        "lease_not_empty": _("lease {where} is settled, but still holds {yuan} yuan"),
        "sum_differs": _("a sum is not that of its entries: {where}"),
        "head_missing": _(
            "{where} is missing, so a tail that was cut off could not be told; "
            "the daemon begins a new one and says so"
        ),
        "head_unreadable": _(
            "{where} cannot be read; look at it, then delete it: the daemon begins a new one"
        ),
        "tail_cut": _(
            "the newest entries are gone: there was an entry {entry}, the last now is {newest}; "
            "restore a backup that has it"
        ),
        "tail_changed": _(
            "entry {entry} is not the one that was written: the newest entries were replaced; "
            "restore a backup"
        ),
    }


def _finding_text(texts: Mapping[str, str], finding: Finding) -> str:
    data = dict(finding.data)
    yuan = {
        f"{key.removesuffix('micros')}yuan": yuan_text(abs(value))
        for key, value in data.items()
        if key.endswith("micros")
    }
    return texts[finding.code].format(where=finding.where, **data, **yuan)


@contextlib.contextmanager
def _no_daemon(home: Path) -> Iterator[None]:
    """Hold the daemon's own lock, so that none runs and none starts meanwhile."""
    descriptor = os.open(paths.lock_path(), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            what = _("the daemon of this home runs; nothing was changed")
            hint = "costguard daemon stop"
            raise UserError("daemon_runs", what, str(home), hint, EXIT_USAGE) from error
        yield
    finally:
        os.close(descriptor)


def _database() -> Path:
    database = paths.database_path()
    if not database.exists():
        what = _("nothing was ever submitted in this home")
        raise UserError("nothing_here", what, str(paths.home()), "", EXIT_USAGE)
    return database


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _with_offset(text: str) -> str:
    """The time with the offset that it has here, if it names none itself."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        what = _("{value} is no time").format(value=repr(text))
        hint = _("such as 2026-11-24T23:40, or 2026-11-24T15:40Z")
        raise UserError("bad_time", what, "--at", hint, EXIT_USAGE) from None
    return (moment if moment.tzinfo else moment.astimezone()).isoformat()
