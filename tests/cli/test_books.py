from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from costguard import lang, paths
from costguard.cli import books
from costguard.cli.main import main
from costguard.store.database import Store, read_only_session
from costguard.store.migrate import upgrade
from costguard.store.restored import is_restored
from costguard.store.verify import HEAD_FINDINGS
from tests.store.rows import add_interval, add_job, add_lease, charge, reserve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import FakeDaemon


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a reservation, a charge and a Chinese name in it, made once."""
    path = tmp_path_factory.mktemp("books") / "costguard.db"
    upgrade(path)
    store = Store(path)
    with store.write() as session:
        job = add_job(session, "=客服")
        lease = add_lease(session, job)
        reserve(session, job, lease, 50)
        charge(session, job, add_interval(session, job), lease, 20)
    store.close()
    return path


@pytest.fixture
def database(home: Path, template: Path) -> Path:
    """That database and its head in the test's home."""
    for name in ("costguard.db", "ledger.head"):
        (home / name).write_bytes(template.with_name(name).read_bytes())
    return home / "costguard.db"


def tamper(database: Path) -> None:
    """An entry is edited and the last one is gone."""
    with closing(sqlite3.connect(database)) as plain, plain:
        plain.execute("DROP TRIGGER ledger_no_update")
        plain.execute("DROP TRIGGER ledger_no_delete")
        plain.execute("UPDATE ledger SET amount_micros = 1 WHERE id = 1")
        plain.execute("DELETE FROM ledger WHERE id = 2")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints."""
    assert main(words) == code
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """The one JSON document that a command prints."""
    return json.loads(said(capsys, *words, "--json", code=code))


@pytest.mark.usefixtures("database")
def test_sound_books_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    """How many entries, and the newest one's hash."""
    assert said(capsys, "ledger", "verify").startswith("the books hold: 2 entries")
    found = document(capsys, "ledger", "verify")
    assert found["schema"] == "costguard.ledger_verify/1"
    assert (found["ok"], found["entries"], found["findings"]) == (True, 2, [])
    assert found["head"]["entry"] == 2


def test_each_finding_is_told_in_plain_words(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the exit code is 1."""
    tamper(database)
    text = said(capsys, "ledger", "verify", code=1)
    assert "  - entry 1 was changed, or the one before it was\n" in text
    assert "there was an entry 2, the last now is 1" in text
    assert "interval 1 says 20.00 yuan were posted, its entries 0.00" in text
    assert "the guard ledger_no_update is gone" in text
    found = document(capsys, "ledger", "verify", code=1)
    assert found["ok"] is False
    assert {"code": "tail_cut", "where": "ledger.head"}.items() <= found["findings"][-1].items()


def test_every_kind_of_finding_has_words_in_both_languages() -> None:
    """One that had none would crash when it is needed most."""
    from costguard.store import verify

    source = verify.__loader__.get_source(verify.__name__)  # type: ignore[union-attr]
    texts = books.finding_texts()
    codes = {part.split('"')[1] for part in source.split("Finding(")[1:] if part[0] == '"'}
    codes |= {*HEAD_FINDINGS.values(), "sum_differs"}
    assert codes == texts.keys()
    assert set(texts.values()) <= lang.catalogue("zh").keys()


def test_an_empty_home_has_no_books(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """It is said, and none are made."""
    for words in (["ledger", "verify"], ["ledger", "export"], ["backup", "x"]):
        assert main(words) == 2
    assert "nothing was ever submitted" in capsys.readouterr().err
    assert not (home / "costguard.db").exists()


@pytest.mark.usefixtures("database")
def test_the_export_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """CSV unless something else is asked for; no cell is a formula."""
    rows = list(csv.DictReader(io.StringIO(said(capsys, "ledger", "export"))))
    assert [row["kind"] for row in rows] == ["reserve", "charge"]
    assert rows[0]["job"] == "'=客服"
    text = said(capsys, "ledger", "export", "--format", "hledger")
    assert text.startswith("commodity 1000.000000 CNY\n")
    assert "Expenses:Gpu:Job1-客服:Train    20.000000 CNY\n" in text
    text = said(capsys, "ledger", "export", "--format", "beancount")
    assert 'option "operating_currency" "CNY"\n' in text


@pytest.mark.usefixtures("database")
def test_the_export_goes_into_a_new_private_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the mark that spreadsheets need for Chinese; an older file is not overwritten."""
    out = tmp_path / "books.csv"
    assert said(capsys, "ledger", "export", "--out", str(out)) == ""
    assert out.read_bytes().startswith(b"\xef\xbb\xbfentry,at,")
    assert out.stat().st_mode & 0o077 == 0
    assert main(["ledger", "export", "--out", str(out)]) == 2
    assert main(["ledger", "export", "--format", "xlsx"]) == 2
    assert "'xlsx' is none of csv, hledger, beancount" in capsys.readouterr().err


def test_a_backup_is_made_and_put_back(
    database: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way there and back; the restored home says what it will not do yet."""
    monkeypatch.setattr("costguard.store.backup.upgrade", lambda _: None)
    file = home / "my backup.db"
    made = document(capsys, "backup", str(file))
    assert (made["schema"], made["ok"], made["file"]) == ("costguard.backup/1", True, str(file))
    text = said(capsys, "restore", str(file))
    assert "restored: 2 entries" in text
    assert "nothing is granted until every account has been listed" in text
    with read_only_session(database) as session:
        assert is_restored(session)
    assert said(capsys, "ledger", "verify").startswith("the books hold")
    put_back = document(capsys, "restore", str(file))
    assert put_back["taken_at"] is not None
    assert put_back["replaced"].startswith(f"{database}.replaced-")


def test_a_backup_of_books_that_do_not_hold_is_made_and_told(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, as for the verification."""
    tamper(database)
    assert "THE BOOKS DO NOT HOLD" in said(capsys, "backup", str(tmp_path / "b.db"), code=1)
    assert (tmp_path / "b.db").exists()


def test_nothing_is_restored_while_the_daemon_runs(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lock says so, whatever its socket does."""
    before = database.read_bytes()
    descriptor = os.open(paths.lock_path(), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert main(["restore", str(database)]) == 2
    os.close(descriptor)
    assert "the daemon of this home runs" in capsys.readouterr().err
    assert database.read_bytes() == before


ANSWER = {
    "schema": "costguard.confirm_stopped/1",
    "job": "kefu",
    "instance": "i-1",
    "attested_at": "2026-11-24T15:40:00.000Z",
    "proven": False,
    "adjusted_yuan": "-0.50",
}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("2026-11-24T23:40:00+08:00", "2026-11-24T23:40:00+08:00"),
        ("2026-11-24T15:40Z", "2026-11-24T15:40:00+00:00"),
        ("2026-11-24T15:40", "2026-11-24T15:40:00+00:00"),  # local time, which is UTC here
    ],
)
def test_an_attested_stop_is_passed_on_with_its_offset(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], given: str, sent: str
) -> None:
    """And shown as attested, never as proven."""
    daemon.answers["confirm_stopped"] = ANSWER
    text = said(capsys, "confirm-stopped", "kefu", "--at", given)
    assert daemon.asked("confirm_stopped") == [{"job": "kefu", "at": sent}]
    assert "kefu: attested as stopped at 2026-11-24T15:40:00.000Z; corrected by -0.50 yuan" in text
    assert "never as proven" in text
    assert document(capsys, "confirm-stopped", "kefu", "--at", given) == ANSWER


def test_a_time_that_is_none_is_refused(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is asked."""
    assert main(["confirm-stopped", "kefu", "--at", "yesterday"]) == 2
    assert "'yesterday' is no time" in capsys.readouterr().err
    assert daemon.asked("confirm_stopped") == []
