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


# The article's table 4.1: what was done, for how many hours, and what an hour cost.
TABLE_4_1 = [
    ("setup", 0, 1, 15),  # 环境部署与测试
    ("paused", 0, 2, 0),  # 数据准备与验证, 可离线做
    ("train", 1, 1, 15),  # 第一次微调(调试)
    ("paused", 1, 1, 0),  # 效果评估与调整
    ("train", 2, 2, 15),  # 第二次微调(正式)
    ("done", 3, 1, 15),  # 模型导出与部署测试
]


def table_4_1(store: Store) -> None:
    """The article's project: on for five of its eight hours, switched off for three."""
    with store.write() as session:
        books, running, at_s = Books.open(session), None, 0
        for phase, stage, hours, price in TABLE_4_1:
            if price == 0:
                running = None
            else:
                running = running or books.interval(after_s=at_s)
                books.run_to(running, at_s + hours * 3_600, phase=phase, stage=stage)
                running.ended_ms = running.metered_to_ms
            at_s += hours * 3_600


def test_the_articles_table_is_75_yuan_with_its_free_rows(store: Store) -> None:
    """Six rows, eight hours of which five are billed, 75 yuan: through ledger and report."""
    table_4_1(store)
    found = rows(store)
    assert [
        (row["phase"], row["stage"], float(row["hours"]), float(row["price_yuan_per_hour"]))
        for row in found
    ] == TABLE_4_1
    assert [row["subtotal_yuan"] for row in found] == [
        "15.00", "0.00", "15.00", "0.00", "30.00", "15.00",
    ]  # fmt: skip
    assert sum(Decimal(row["hours"]) for row in found) == 8
    assert (totals(store)["spent_yuan"], totals(store)["billed_hours"]) == ("75.00", "5.000000")
    assert (totals(store)["setup_yuan"], totals(store)["setup_percent"]) == ("15.00", "20.0")


def test_a_monthly_lease_would_have_cost_forty_times_as_much(store: Store) -> None:
    """The article's own comparison: 3,000 yuan for a week of an A100, against 75."""
    table_4_1(store)
    assert ask(store, "report")["by_the_month"] == {
        "gpu": "A100",
        "month_yuan": "12000.00",
        "week_yuan": "3000.00",
        "weeks": 1,
        "would_cost_yuan": "3000.00",
        "times": "40.0",
        "ran_hours": "5.000000",
        "would_last_hours": "200.000000",
    }


def test_two_weeks_and_a_second_are_three_weeks_of_a_lease(store: Store) -> None:
    """It is not let by the second."""
    with store.write() as session:
        books = Books.open(session)
        books.run_to(books.interval(), 3_600)
        books.run_to(books.interval(after_s=14 * 86_400), 14 * 86_400 + 1)
    assert ask(store, "report")["by_the_month"]["weeks"] == 3


@pytest.mark.parametrize(("seconds", "times"), [(7_200, "100.0"), (7_199, None), (60, None)])
def test_a_short_run_is_compared_with_a_lease_by_hours_and_not_by_a_factor(
    store: Store, seconds: int, times: str | None
) -> None:
    """Up to a hundredfold a factor is said; what the money would last for is there always."""
    with store.write() as session:
        books = Books.open(session)
        books.run_to(books.interval(), seconds)
    found = ask(store, "report")["by_the_month"]
    assert (found["times"], round(float(found["would_last_hours"]))) == (times, 200)


def test_nothing_is_compared_before_anything_ran(store: Store) -> None:
    """There is no week to count."""
    with store.write() as session:
        Books.open(session)
    assert ask(store, "report")["by_the_month"] is None


def test_free_hours_are_grouped_like_the_rest_and_counted_on_no_day(store: Store) -> None:
    """By platform too, which is the provider by its other name."""
    table_4_1(store)
    for by in ("platform", "provider", "gpu", "job"):
        assert [(row["hours"], row["subtotal_yuan"]) for row in rows(store, by)] == [
            ("5.000000", "75.00"),
            ("3.000000", "0.00"),
        ]
    assert [row["phase"] for row in rows(store, "phase")] == ["setup", "paused", "train", "done"]
    assert sum(Decimal(row["hours"]) for row in rows(store, "day")) == 5


def test_where_the_disk_costs_its_own_row_stands_for_the_hours_off(store: Store) -> None:
    """A free row beside it would say that it was free."""
    with store.write() as session:
        books = Books.open(session)
        books.instance.paused_micros_per_hour = 36_000
        first = books.interval()
        books.run_to(first, 3_600)
        first.ended_ms = first.metered_to_ms
        books.run_to(books.interval("disk"), 10_800, phase="disk")
        books.run_to(books.interval(after_s=7_200), 10_800)
    assert [row["phase"] for row in rows(store)] == ["train", "disk"]
    assert totals(store)["disk_yuan"] == "0.108"


def test_a_price_change_leaves_no_gap(store: Store) -> None:
    """The next interval begins where the last one ended."""
    with store.write() as session:
        books = Books.open(session)
        first = books.interval()
        books.run_to(first, 3_600)
        first.ended_ms = first.metered_to_ms
        books.run_to(books.interval(after_s=3_600), 7_200)
    assert [row["phase"] for row in rows(store)] == ["train"]


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
