from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from costguard.store import ledger
from costguard.store.models import Instance
from tests.report.books import MONTH, START_MS, YUAN, Books, ask

if TYPE_CHECKING:
    from costguard.store.database import Store

TOTALS = [
    "billed_hours", "spent_yuan", "reserved_yuan", "cap_yuan", "left_yuan", "worst_case_yuan",
    "idle_yuan", "estimated_yuan", "confirmed_yuan", "drift_yuan", "overrun_yuan",
    "setup_yuan", "disk_yuan", "idle_percent", "setup_percent",
]  # fmt: skip
ROW = [
    "job", "stage", "phase", "provider", "instance", "gpu", "hours", "price_yuan_per_hour",
    "subtotal_yuan",
]  # fmt: skip


def totals(store: Store) -> dict[str, str]:
    """The report's totals."""
    found: dict[str, str] = ask(store, "report")["totals"]
    return found


def rows(store: Store, by: str | None = None) -> list[dict[str, Any]]:
    """The report's rows."""
    found: list[dict[str, Any]] = ask(store, "report", by=by)["rows"]
    return found


def test_the_document_has_exactly_the_keys_of_the_contract(store: Store) -> None:
    """Scripts rely on them."""
    with store.write() as session:
        books = Books.open(session)
        books.run_to(books.interval(), 60)
    report = ask(store, "report")
    assert list(report) == ["schema", "as_of", "currency", "totals", "by_the_month", "rows"]
    assert report["schema"] == "costguard.report/1"
    assert (report["currency"], report["as_of"]) == ("CNY", "2026-11-24T17:00:00.000Z")
    assert list(report["totals"]) == TOTALS
    assert [list(row) for row in report["rows"]] == [ROW]


def test_money_and_hours_are_text_in_the_contracts_form(store: Store) -> None:
    """Two to six decimals, in keys that end in _yuan."""
    with store.write() as session:
        books = Books.open(session)
        books.run_to(books.interval(), 1)
    report = ask(store, "report")
    for part in (report["totals"], *report["rows"]):
        for key, value in part.items():
            if "yuan" in key or "hours" in key:
                assert isinstance(value, str)
                assert 2 <= len(value.partition(".")[2]) <= 6
                Decimal(value)


def test_a_home_without_jobs_has_spent_nothing(store: Store) -> None:
    """Zeros, not an error."""
    assert set(totals(store).values()) == {"0.00", "0.000000", "0.0"}
    assert rows(store) == []


def test_the_articles_table_is_75_yuan(store: Store) -> None:
    """1 + 1 + 2 + 1 hours at 15 yuan, each stage a row."""
    with store.write() as session:
        books = Books.open(session)
        running, to_s = books.interval(), 0
        for stage, hours in enumerate((1, 1, 2, 1)):
            to_s += hours * 3_600
            books.run_to(running, to_s, stage=stage)
    found = rows(store)
    assert [row["hours"] for row in found] == ["1.000000", "1.000000", "2.000000", "1.000000"]
    assert [row["subtotal_yuan"] for row in found] == ["15.00", "15.00", "30.00", "15.00"]
    assert (totals(store)["spent_yuan"], totals(store)["billed_hours"]) == ("75.00", "5.000000")


@pytest.mark.parametrize(
    ("quantum_s", "hours", "yuan"),
    [(1, "0.840278", "12.604167"), (60, "0.850000", "12.75"), (3_600, "1.000000", "15.00")],
)
def test_hours_are_the_hours_that_were_billed(
    store: Store, quantum_s: int, hours: str, yuan: str
) -> None:
    """Hours times price is the subtotal, however often the meter was looked at."""
    with store.write() as session:
        books = Books.open(session, quantum_s=quantum_s)
        running = books.interval()
        for to_s in range(25, 3_026, 60):
            books.run_to(running, to_s)
    (row,) = rows(store)
    assert (row["hours"], row["subtotal_yuan"]) == (hours, yuan)
    assert totals(store)["billed_hours"] == hours


def test_a_correction_takes_its_hours_back(store: Store) -> None:
    """Charged by assumption for two hours, and it was one."""
    with store.write() as session:
        books = Books.open(session)
        running = books.interval()
        books.run_to(running, 7_200)
        at_ms = START_MS + 7_300_000
        ledger.adjust(session, books.job, running, 15 * YUAN, "earlier", at_ms, MONTH)
    assert (totals(store)["billed_hours"], totals(store)["spent_yuan"]) == ("1.000000", "15.00")


def test_spent_is_the_larger_of_estimated_and_confirmed_for_each_instance(store: Store) -> None:
    """A bill that lags hides nothing; drift is confirmed less estimated where a bill was read."""
    with store.write() as session:
        for name, hours, bill in (("low", 2, 10), ("high", 1, 16), ("unread", 1, None)):
            books = Books.open(session, name)
            books.run_to(books.interval(), hours * 3_600)
            books.instance.bill_micros = None if bill is None else bill * YUAN
    found = totals(store)
    assert (found["estimated_yuan"], found["confirmed_yuan"]) == ("60.00", "26.00")
    assert found["spent_yuan"] == "61.00"  # 30, 16 and 15
    assert found["drift_yuan"] == "-19.00"  # 10 - 30 and 16 - 15


def test_what_is_left_is_what_nothing_is_spent_promised_or_held_for(store: Store) -> None:
    """Left = cap - spent - reserved - F, and the worst case is the rest."""
    with store.write() as session:
        books = Books.open(session, cap_yuan=80, hold_micros=3 * YUAN)
        books.reserve(20)
        books.run_to(books.interval(), 3_600)
        books.instance.bill_micros = 16 * YUAN
    found = totals(store)
    assert (found["cap_yuan"], found["spent_yuan"], found["reserved_yuan"]) == (
        "80.00",
        "16.00",
        "5.00",
    )
    assert (found["left_yuan"], found["worst_case_yuan"]) == ("56.00", "24.00")
    assert found["overrun_yuan"] == "0.00"


def test_what_no_lease_covered_is_shown_as_overrun(store: Store) -> None:
    """Of running alone: the disk is paid from its hold."""
    with store.write() as session:
        books = Books.open(session)
        books.reserve(10)
        books.run_to(books.interval(), 3_600)
        books.run_to(books.interval("disk"), 3_600, phase="disk")
    assert totals(store)["overrun_yuan"] == "5.00"
    assert totals(store)["estimated_yuan"] == "15.036"


@pytest.mark.parametrize(
    ("reason", "idle"),
    [
        ("idle", "7.50"),
        ("stalled", "7.50"),
        ("blind", "7.50"),
        ("finished", "0.00"),
        (None, "0.00"),
    ],
)
def test_what_was_paid_after_the_last_step_was_idle(
    store: Store, reason: str | None, idle: str
) -> None:
    """Only where it ended for that, and without the disk that is kept on purpose."""
    with store.write() as session:
        books = Books.open(session, pause_reason=reason)
        running = books.interval()
        books.run_to(running, 1_800)
        books.tell("progress", 1, after_s=1_800, step=5, loss=2.0)
        books.run_to(running, 3_600)
        books.run_to(books.interval("disk"), 360_000, phase="disk")
    assert totals(store)["idle_yuan"] == idle


def test_without_any_step_nothing_is_called_idle(store: Store) -> None:
    """There is nothing to measure from."""
    with store.write() as session:
        books = Books.open(session, pause_reason="idle")
        books.run_to(books.interval(), 3_600)
    assert totals(store)["idle_yuan"] == "0.00"


def two_jobs(store: Store) -> None:
    """Two jobs on two kinds of GPU, two phases, over midnight in Shanghai and not in UTC."""
    with store.write() as session:
        one = Books.open(session, "one", price_yuan=15)
        running = one.interval()
        one.run_to(running, 1_800, phase="download")
        one.run_to(running, 3_600, phase="train")
        two = Books.open(session, "two", price_yuan=40, gpu="A100")
        early = two.interval(after_s=-3_600)
        two.run_to(early, -1, phase="train", stage=1)
        two.run_to(early, 0, phase="train", stage=1)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (None, [("one", "download", "7.50"), ("one", "train", "7.50"), ("two", "train", "40.00")]),
        ("job", [("one", "15.00"), ("two", "40.00")]),
        ("stage", [(0, "15.00"), (1, "40.00")]),
        ("phase", [("download", "7.50"), ("train", "7.50"), ("train", "40.00")]),
        ("gpu", [("RTX 3090", "15.00"), ("A100", "40.00")]),
        ("instance", [("i-1", "15.00"), ("i-2", "40.00")]),
        ("day", [("2026-11-25", "15.00"), ("2026-11-24", "39.988889"), ("2026-11-25", "0.011111")]),
    ],
)
def test_rows_are_grouped_as_asked(
    store: Store, by: str | None, expected: list[tuple[object, ...]]
) -> None:
    """One price a row; what a row does not stand for is null."""
    two_jobs(store)
    keys = ("job", "phase") if by is None else (by,)
    found = rows(store, by)
    assert [tuple(row[key] for key in (*keys, "subtotal_yuan")) for row in found] == expected
    if by is not None:
        others = set(ROW[:6]) - {by}
        assert {row[key] for row in found for key in others} == {None}
    assert ("day" in found[0]) is (by == "day")
    subtotals = sum(Decimal(row["subtotal_yuan"]) for row in found)
    assert subtotals == Decimal(totals(store)["estimated_yuan"]) == 55


def test_two_prices_are_two_rows(store: Store) -> None:
    """A price change in mid-run stays visible, and hours times price holds in each."""
    with store.write() as session:
        books = Books.open(session, price_yuan=15)
        books.run_to(books.interval(), 3_600)
        session.get_one(Instance, books.instance.id).price_micros_per_hour = 20 * YUAN
        books.run_to(books.interval(after_s=3_600), 7_200)
    assert [(row["price_yuan_per_hour"], row["subtotal_yuan"]) for row in rows(store)] == [
        ("15.00", "15.00"),
        ("20.00", "20.00"),
    ]
