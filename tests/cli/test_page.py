from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from costguard import lang, paths
from costguard.cli.main import main
from costguard.cli.page import page_html, write_page
from costguard.cli.plots import Line, Tick, axis, bar, plot
from costguard.cli.words import duration_of_hours
from costguard.errors import UserError
from costguard.report.page import page_document
from costguard.store.database import Store
from costguard.store.migrate import upgrade
from tests.cli.browser import Browser, chromium, opened
from tests.report.books import NOW_MS, ZONE, Books
from tests.report.night import END_S, a_night

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

PLANTED = (
    '<img src="http://127.0.0.1:9/x" onerror="document.title=1"><script>document.title=2</script>'
)
Made = Callable[[Callable[[Any], object]], dict[str, Any]]
LONG_NAME = "客服模型微调-第二轮-名字长得一行放不下的任务"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with nothing in it."""
    path = tmp_path_factory.mktemp("empty") / "costguard.db"
    upgrade(path)
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, empty: Path) -> Path:
    """Two nights in the books, the second with a card that waits and words that look like HTML."""
    path = tmp_path_factory.mktemp("night") / "costguard.db"
    path.write_bytes(empty.read_bytes())
    store = Store(path)
    with store.write() as session:
        a_night(session, every_s=300)
        books = a_night(session, LONG_NAME, util_percent=42, every_s=300)
        books.instance.bill_micros = 45_000_000
        books.job.verdict_text = PLANTED
        books.job.breach = True
    store.close()
    return path


@pytest.fixture
def night(home: Path, template: Path) -> Path:
    """A home with those books."""
    paths.database_path().write_bytes(template.read_bytes())
    return home


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser for all tests of this module."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed here: the page is not looked at in a browser")
    with opened(program, tmp_path_factory.mktemp("profile")) as one:
        yield one


def written(folder: Path, language: str = "en", *more: str) -> Path:
    """The page as the command writes it."""
    path = folder / f"report-{language}.html"
    assert main(["--lang", language, "report", "--html", str(path), *more]) == 0
    return path


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [390, 1_440])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_real_browser_shows_it_whole_and_fetches_nothing(
    night: Path, browser: Browser, language: str, width: int, dark: bool
) -> None:
    """No request but the file, no word on the console, no scrolling sideways, charts drawn."""
    path = written(night, language)
    browser.open(path, width, dark=dark)
    assert browser.requests == [path.absolute().as_uri()]
    assert browser.complaints == []
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("document.title") not in ("1", "2")
    sizes = browser.value(
        "[...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect())"
        ".map(r => [r.width, r.height])"
    )
    assert len(sizes) == 6  # money, GPU and loss, of two jobs
    assert all(wide > 250 and high > 100 for wide, high in sizes)
    curves = browser.value(
        "[...document.querySelectorAll('path.line')].map(e => e.getTotalLength())"
    )
    assert len(curves) == 2 * (3 + 3 + 2)
    assert min(curves) > 50
    bars = browser.value(
        "[...document.querySelectorAll('.bar rect:last-child')]"
        ".map(e => e.getBoundingClientRect().width)"
    )
    assert len(bars) == 2 * 7
    assert min(bars) > 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_is_large_and_stands_out(night: Path, browser: Browser, dark: bool) -> None:
    """12 pixels and more on a phone, and the contrast that WCAG asks of text: 4.5 to 1."""
    browser.open(written(night), 390, dark=dark)
    found = browser.value(WORDS)
    assert len(found) > 100
    assert min(size for size, _contrast in found) >= 12
    assert min(contrast for _size, contrast in found) >= 4.5


def test_no_time_is_broken_in_two(night: Path, browser: Browser) -> None:
    """A line that ends within a date is read twice."""
    browser.open(written(night), 390)
    lines = browser.value(
        "[...document.querySelectorAll('time')].map(e => e.getClientRects().length)"
    )
    assert len(lines) >= 4
    assert set(lines) == {1}


def test_no_label_of_a_chart_lies_on_another(night: Path, browser: Browser) -> None:
    """The times below a chart have room even on a phone."""
    browser.open(written(night, "zh"), 390)
    rows = browser.value(
        "[...document.querySelectorAll('.plot')].map(p => [...p.querySelectorAll('.x')]"
        ".map(e => e.getBoundingClientRect()).map(r => [r.left, r.right]))"
    )
    assert [len(row) for row in rows] == [5] * 6
    for row in rows:
        assert all(left > before for (_l, before), (left, _r) in pairwise(row))


def test_it_prints_light_on_a4(night: Path, browser: Browser) -> None:
    """Whatever the screen's colours are, paper is white; nothing is cut off at its edge."""
    browser.open(written(night), 680, dark=True, media="print")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("document.documentElement.scrollWidth") <= 680  # A4 less its margins
    pdf = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert {(round(float(w)), round(float(h))) for w, h in boxes} == {(595, 842)}


SHOWN = {
    "spent_yuan": "spent",
    "reserved_yuan": "reserved",
    "cap_yuan": "cap",
    "left_yuan": "left",
    "worst_case_yuan": "worst case",
    "setup_yuan": "set-up",
    "idle_yuan": "idle",
    "disk_yuan": "paused disk",
    "estimated_yuan": "as metered here",
    "confirmed_yuan": "confirmed by the platform",
    "drift_yuan": "drift",
    "overrun_yuan": "overrun",
}


def test_the_same_figure_is_the_same_in_table_json_csv_page_and_status(
    home: Path, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every total and every job's sums, asked of all five."""
    paths.database_path().write_bytes(template.read_bytes())

    def said(*arguments: str) -> str:
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    report = json.loads(said("report", "--json"))
    status = json.loads(said("status", "--json"))
    table, page = said("report"), written(home).read_text(encoding="utf-8")
    totals = {key: Decimal(report["totals"][key]) for key in SHOWN}
    for key, label in SHOWN.items():
        sign = "-" if totals[key] < 0 else ""
        shown = f"{sign}¥{abs(totals[key]):,.2f}"
        assert re.search(rf"^ *{label} +{re.escape(shown)}( .*)?$", table, re.MULTILINE), label
        assert f"<span>{label}</span><b>{shown}</b>" in page
    billed = duration_of_hours(report["totals"]["billed_hours"])
    assert re.search(rf"^billed time +{billed}$", table, re.MULTILINE)
    assert f"<small>{billed} billed</small>" in page
    for key in ("spent_yuan", "reserved_yuan", "cap_yuan", "left_yuan", "worst_case_yuan"):
        assert totals[key] == sum(Decimal(row["budget"][key]) for row in status["jobs"])
    rows = list(csv.DictReader(io.StringIO(said("report", "--csv"))))
    for found in (report["rows"], rows):
        assert totals["estimated_yuan"] == sum(Decimal(row["subtotal_yuan"]) for row in found)
    for row in status["jobs"]:
        each = f"spent ¥{Decimal(row['budget']['spent_yuan']):,.2f} of ¥60.00"
        assert each in said("status", row["job"])
        assert each in said("explain", row["job"])
        assert each in page


def test_what_a_name_contains_is_text_and_never_markup(night: Path) -> None:
    """A verdict's words may come from an instance."""
    page = written(night).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert page.count("http:") == 1  # the planted word, escaped


def document_of(store: Store) -> dict[str, Any]:
    """What the page is made of."""
    with store.read() as session:
        return page_document(session, NOW_MS, ZONE, None)


@pytest.fixture
def made(home: Path, empty: Path) -> Iterator[Made]:
    """The document of books that a test writes."""
    paths.database_path().write_bytes(empty.read_bytes())
    store = Store(paths.database_path())

    def build(write: Callable[[Session], object]) -> dict[str, Any]:
        with store.write() as session:
            write(session)
        return document_of(store)

    yield build
    store.close()


def test_a_job_that_never_ran_has_words_and_no_charts(made: Made) -> None:
    """Nothing is drawn of nothing."""
    page = page_html(made(lambda session: Books.open(session, state="queued")))
    assert "nothing was spent yet" in page
    assert "<svg" not in page


def test_without_gpu_and_loss_it_says_so(made: Made) -> None:
    """A command of one's own on a machine without NVML."""

    def write(session: Session) -> None:
        books = Books.open(session)
        books.run_to(books.interval(), 3_600)

    page = page_html(made(write))
    assert "no GPU was seen through NVML" in page
    assert "no loss was logged" in page
    assert page.count('class="plot"') == 1


def test_a_cap_far_above_is_told_instead_of_flattening_the_curves(made: Made) -> None:
    """80 yuan over a job that has spent 0.25."""

    def write(session: Session) -> None:
        books = Books.open(session, cap_yuan=80)
        books.run_to(books.interval(), 60)

    page = page_html(made(write))
    assert "the cap, ¥80.00, is far above" in page
    assert 'class="line red"' not in page


def test_the_committed_line_ends_where_spent_does_once_all_is_settled(made: Made) -> None:
    """Steps of leases on the way, nothing reserved at the end, never past the cap."""
    (job,) = made(lambda session: a_night(session, every_s=300))["jobs"]
    money = job["series"]["money"]
    assert money[-1]["spent_yuan"] == money[-1]["committed_yuan"]
    assert money[-1]["at_s"] == job["series"]["length_s"] == END_S
    for point in money:
        assert Decimal(point["spent_yuan"]) <= Decimal(point["committed_yuan"]) <= 60
    assert max(Decimal(each["committed_yuan"]) - Decimal(each["spent_yuan"]) for each in money) > 2


def test_only_the_newest_jobs_are_drawn_and_the_rest_is_counted(made: Made) -> None:
    """A page of five hundred jobs would be no page."""

    def write(session: Session) -> None:
        for number in range(14):
            books = Books.open(session, f"job{number}")
            books.run_to(books.interval(), 60)

    document = made(write)
    assert [len(document["jobs"]), document["jobs_left_out"]] == [12, 2]
    assert document["jobs"][0]["status"]["job"] == "job13"
    assert "2 older jobs are in the table only" in page_html(document)


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_the_old_one(
    night: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is not there; what was there stays as it was."""
    assert main(["report", "--html", str(night / "none" / "x.html")]) == 2
    assert "name a file in a folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be written"):
        write_page({"report": {}, **document_of_nothing()}, night)
    assert not list(night.glob(".*.part"))


def document_of_nothing() -> dict[str, Any]:
    """A page without jobs."""
    totals = dict.fromkeys(
        (
            *("spent_yuan", "cap_yuan", "left_yuan", "reserved_yuan", "worst_case_yuan"),
            *("setup_yuan", "idle_yuan", "disk_yuan", "estimated_yuan", "confirmed_yuan"),
            *("drift_yuan", "overrun_yuan", "billed_hours", "setup_percent", "idle_percent"),
        ),
        "0.00",
    )
    report: dict[str, Any] = {"totals": totals, "rows": [], "by_the_month": None}
    return {"as_of": "2026-11-24T16:00:00.000Z", "report": report, "jobs": [], "jobs_left_out": 0}


def test_html_goes_with_neither_json_nor_csv(
    night: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One form at a time."""
    assert main(["report", "--csv", "--html", str(night / "x.html")]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert not (night / "x.html").exists()


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 80, ["0", "20", "40", "60", "80"]),
        (0, 0.9, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        (1.31, 3.2, ["1.0", "1.5", "2.0", "2.5", "3.0", "3.5"]),
        (5, 5, ["4", "6", "8", "10"]),
        (0, 9_000, ["0", "2,500", "5,000", "7,500", "10,000"]),
    ],
)
def test_an_axis_has_round_figures_and_holds_its_values(
    low: float, high: float, texts: list[str]
) -> None:
    """What is drawn lies between the first and the last of them."""
    found = axis(low, high)
    assert [tick.text for tick in found.ticks] == texts
    assert 0 <= found.place(low) <= found.place(high) <= 1


def test_curves_keep_to_their_frame(home: Path) -> None:
    """One point is a dot, a step goes across before it goes up, and nothing leaves the frame."""
    lines = [
        Line("dot", "a", [(5, 1)]),
        Line("steps", "b", [(0, 0), (10, 1), (20, 9)], steps=True),
        Line("none", "c", []),
    ]
    drawn = plot("<t>", lines, 10, axis(0, 2), [Tick(0, "0")])
    assert 'd="M500.0 120.0h0.01"' in drawn
    assert 'd="M0.0 240.0H1000.0V120.0H1000.0V0.0"' in drawn
    assert "none" not in drawn.replace('"none"', "")
    assert "&lt;t&gt;" in drawn
    assert 'width="1000.0"' in bar(2, "x")
    assert 'width="0.0"' in bar(-1, "x")
    lang.select("en")


# Font size and contrast of every text that is seen, over the background that is behind it.
WORDS = """
(() => {
  const light = c => {
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest('svg') || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(style.color), light(behind(e))].sort((x, y) => y - x);
    found.push([parseFloat(style.fontSize), (a + 0.05) / (b + 0.05)]);
  }
  return found;
})()
"""
