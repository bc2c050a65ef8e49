from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from beancount import loader
from beancount.core.data import Open, Transaction

from costguard.report.ledger_csv import csv_chunks, safe
from costguard.report.ledger_journal import beancount_chunks, hledger_chunks
from costguard.report.ledger_lines import account_part, ledger_lines, one_line, postings
from costguard.store import ledger
from tests.report.books import MONTH, START_MS, YUAN, ZONE, Books

if TYPE_CHECKING:
    from costguard.store.database import Store

NASTY = '客服 "模型"; 微调\n2026-01-01 open Assets:Fake | (x) \\'


@pytest.fixture
def books(store: Store) -> Store:
    """Two jobs, one of them with a name that tries everything, every kind of entry in them."""
    with store.write() as session:
        one = Books.open(session, "kefu", cap_yuan=80)
        one.reserve(30)
        interval = one.interval()
        one.run_to(interval, 3_600)
        one.run_to(interval, 3_601, phase="save")
        owed = interval.posted_micros - YUAN
        ledger.adjust(session, one.job, interval, owed, "=1+1;\nearlier", START_MS, MONTH)
        one.run_to(one.interval("disk"), 7_200, phase="disk")
        ledger.settle(session, one.job, one.lease, START_MS + 86_400_000, MONTH)
        two = Books.open(session, NASTY, price_yuan=40, state="training")
        two.reserve(20)
        two.run_to(two.interval(), 5)
    return store


def text_of(store: Store, form: str) -> str:
    """The whole export."""
    with store.read() as session:
        if form == "csv":
            return "".join(csv_chunks(ledger_lines(session, ZONE)))
        chunks = {"hledger": hledger_chunks, "beancount": beancount_chunks}[form]
        return "".join(chunks(lambda: ledger_lines(session, ZONE)))


def totals(store: Store) -> tuple[Decimal, Decimal]:
    """Posted and pending of the ledger itself, in yuan."""
    with store.read() as session:
        sums = ledger.posted_micros(session), ledger.pending_micros(session)
    return Decimal(sums[0]) / YUAN, Decimal(sums[1]) / YUAN


def test_every_entry_is_balanced(books: Store) -> None:
    """And has two sides at least, but for what moves nothing."""
    with books.read() as session:
        for line in ledger_lines(session, ZONE):
            sides = postings(line)
            assert sum(side.micros for side in sides) == 0
            assert len(sides) >= 2, line


def test_beancount_itself_loads_it_without_an_error(books: Store) -> None:
    """Chinese names, quotes and line breaks and all; the balances are the ledger's own."""
    entries, errors, _ = loader.load_string(text_of(books, "beancount"))
    assert errors == []
    balance: defaultdict[str, Decimal] = defaultdict(Decimal)
    for entry in entries:
        if isinstance(entry, Transaction):
            for posting in entry.postings:
                assert posting.units is not None
                assert posting.units.number is not None
                root = ":".join(posting.account.split(":")[:3])
                balance[root.partition(":")[0]] += posting.units.number
                balance[root] += posting.units.number
    posted, pending = totals(books)
    assert balance["Expenses"] == posted
    assert balance["Assets:Budget:Reserved"] == pending > 0
    assert balance["Assets:Budget:Free"] == -pending
    assert balance["Assets:Wallet:Local"] == -posted
    names = {entry.account for entry in entries if isinstance(entry, Open)}
    assert "Expenses:Gpu:Job2-客服-模型-微调-2026-01-01-open-Assets-Fake-x:Train" in names
    assert not any("Fake" in name and not name.count("Job2-") for name in names)


def test_an_empty_ledger_is_a_valid_empty_export(store: Store) -> None:
    """Nothing to declare."""
    entries, errors, _ = loader.load_string(text_of(store, "beancount"))
    assert (entries, errors) == ([], [])
    assert text_of(store, "hledger") == "commodity 1000.000000 CNY\n"
    assert text_of(store, "csv").count("\r\n") == 1


# The part of hledger's journal format that the export uses, from its manual.
HEADER = re.compile(r"(\d{4}-\d\d-\d\d) \* \(([^()]*)\) [^;|]* \| (reserve|charge|settle|adjust)")
POSTING = re.compile(r" {4}(\S(?:[^;]*?\S)?) {2,}(-?\d+\.\d{6}) CNY")
COMMENT = re.compile(r" {4}; [a-z]+: .*")


def read_journal(text: str) -> list[list[tuple[str, Decimal]]]:
    """The transactions of a journal, by a small parser; AssertionError where it is none."""
    declared: set[str] = set()
    found: list[list[tuple[str, Decimal]]] = []
    for line in text.splitlines():
        if line.startswith("account "):
            declared.add(line.removeprefix("account "))
        elif HEADER.fullmatch(line):
            found.append([])
        elif posting := POSTING.fullmatch(line):
            assert posting[1] in declared, posting[1]
            found[-1].append((posting[1], Decimal(posting[2])))
        else:
            assert line in ("", "commodity 1000.000000 CNY") or COMMENT.fullmatch(line), line
    return found


def test_the_journal_is_of_hledgers_format_and_balanced(books: Store) -> None:
    """By a parser of the part of it that is used; the sums are the ledger's."""
    balance: defaultdict[str, Decimal] = defaultdict(Decimal)
    for transaction in read_journal(text_of(books, "hledger")):
        assert sum(amount for _, amount in transaction) == 0
        for account, amount in transaction:
            balance[account.partition(":")[0]] += amount
            if account.startswith("Assets:Budget:Reserved:"):
                balance["reserved"] += amount
    posted, pending = totals(books)
    assert (balance["Expenses"], balance["Assets"], balance["reserved"]) == (
        posted,
        -posted,
        pending,
    )


def test_the_parser_of_the_test_refuses_what_is_no_journal() -> None:
    """A test that cannot fail proves nothing."""
    with pytest.raises(AssertionError):
        read_journal("2026-11-24 * (x) a; b | charge\n")
    with pytest.raises(AssertionError):
        read_journal("2026-11-24 * (x) a | charge\n    Assets:X    1.000000 CNY\n")


@pytest.mark.skipif(shutil.which("hledger") is None, reason="the parser above stands in for it")
def test_hledger_itself_passes_it_strictly(books: Store, tmp_path: Path) -> None:
    """Where it is installed: accounts and commodities declared, everything balanced."""
    journal = tmp_path / "books.journal"
    journal.write_text(text_of(books, "hledger"), encoding="utf-8")
    words = ["hledger", "--file", str(journal), "check", "--strict"]
    environment = {"PATH": str(Path(str(shutil.which("hledger"))).parent), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_csv_adds_up_and_says_everything(books: Store) -> None:
    """One row an entry; two columns whose sums are posted and pending."""
    rows = list(csv.DictReader(io.StringIO(text_of(books, "csv"))))
    posted, pending = totals(books)
    assert sum(Decimal(row["spent_change_yuan"]) for row in rows) == posted
    assert sum(Decimal(row["reserved_change_yuan"]) for row in rows) == pending
    assert [row["kind"] for row in rows] == [
        "reserve",
        "charge",
        "charge",
        "adjust",
        "charge",
        "settle",
        "reserve",
        "charge",
    ]
    assert rows[1]["at"] == "2026-11-24T17:00:00.000Z"
    assert rows[1]["date"] == "2026-11-25", "the day in the budgets' zone"
    assert rows[6]["job"] == NASTY


def test_a_correction_downwards_stays_a_number(books: Store) -> None:
    """A minus sign begins a formula only in a text."""
    rows = list(csv.DictReader(io.StringIO(text_of(books, "csv"))))
    assert rows[3]["amount_yuan"] == "-1.00"
    assert rows[3]["note"] == "'=1+1;\nearlier"


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@a", "\t=1", "  =1", "\uff1d1", "\uff20a", "\r=1"]
)
def test_no_cell_begins_a_formula(text: str) -> None:
    """Names come from job files that people send each other."""
    assert safe(text) == f"'{text}"


def test_an_ordinary_cell_is_left_alone() -> None:
    """Chinese, spaces, signs in the midst."""
    assert safe("客服 a-b=c") == "客服 a-b=c"


def test_names_become_parts_of_accounts() -> None:
    """Letters of any script and digits are kept; nothing else is."""
    assert account_part("a b_c/客服:ü") == "a-b-c-客服-ü"
    assert account_part("///") == ""


def test_a_text_stays_on_its_line() -> None:
    """Whatever kind of line break it has."""
    assert one_line("a\nb\r\u2028c\x0bd\x00") == "a b c d"
