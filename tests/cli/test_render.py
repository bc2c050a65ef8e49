from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard import lang
from costguard.cli.render import budget_lines, explain_lines, status_lines
from costguard.cli.spend import month_words, report_csv, report_lines
from costguard.cli.text import Screen, width
from costguard.cli.words import duration, duration_of_hours, money
from costguard.report.figures import hours_text

if TYPE_CHECKING:
    from types import SimpleNamespace

SCREEN = Screen()

ONE_JOB = """\
daemon running (pid 4242)                                    2025-03-01 12:00:00

kefu  training
  progress      stage 1   phase train   step 120/375   loss 1.8321
                ETA 20 min 34 s
  money         spent ¥3.21 of ¥80.00   reserved ¥3.75   left ¥71.21
                worst case ¥6.96   forecast ¥12.40
  instance      i-3f2a9b on local   RTX 3090   running   ¥15.00/h
                paid until 2025-03-01 12:01:00
  lease         until 2025-03-01 12:15:00
  stopped by    daemon (armed, proven)   platform timer (NOT armed)
  telemetry     3 s ago   GPU 92 %   GPU memory 78 %
  checkpoint    step 100   complete   42 s ago"""


def test_one_job_at_80_columns(docs: SimpleNamespace) -> None:
    """Everything that the status has about a job, on one screen."""
    assert status_lines(docs.status(docs.job()), SCREEN) == ONE_JOB.splitlines()


def test_a_job_that_will_not_fit_says_where_the_budget_ends(docs: SimpleNamespace) -> None:
    """With the range that the forecast has."""
    row = docs.job(forecast_low_yuan="11.90", forecast_high_yuan="14.00", bites_at_step=311)
    text = " ".join(" ".join(status_lines(docs.status(row), SCREEN)).split())
    assert "between ¥11.90 and ¥14.00" in text
    assert "WILL NOT FIT: the budget ends near step 311" in text


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ("size", "allows for them by their samples"),
        ("times", "their size is not known"),
        ("nothing", "whether evaluations come is not known"),
    ],
)
def test_a_range_that_is_wide_for_evaluations_says_so(
    docs: SimpleNamespace, known: str, said: str
) -> None:
    """A figure that nobody has seen yet is not shown as if somebody had."""
    figures = {"forecast_low_yuan": "11.90", "forecast_high_yuan": "24.00"}
    row = docs.job(**figures, evaluations_known=known)
    assert said in " ".join(" ".join(status_lines(docs.status(row), SCREEN)).split())
    plain = docs.job(**figures, evaluations_known="enough")
    assert "evaluation" not in " ".join(status_lines(docs.status(plain), SCREEN))


def test_several_jobs_in_chinese(docs: SimpleNamespace) -> None:
    """A table that lines up, and a breach said in full below it."""
    lang.select("zh")
    long = docs.ended("paused", "budget", job="客服模型微调第二轮用更长的名字", breach=True)
    lines = status_lines(docs.status(long, docs.job(), running=False), SCREEN)
    assert all(width(line) <= 80 for line in lines)
    ends = [width(line) for line in lines[2:5]]
    assert len(set(ends)) == 1
    assert lines[0].startswith("守护进程没有运行")
    assert "已暂停（预算）" in lines[3]
    assert lines[5] == "客服模型微调第二轮用更长的名字：已超预算"


def test_a_job_that_has_nothing_yet(docs: SimpleNamespace) -> None:
    """What is not known is left out; nothing is made up in its place."""
    row = docs.job(
        state="queued",
        phase=None,
        step=None,
        total_steps=None,
        loss=None,
        eta_s=None,
        forecast_yuan=None,
        instance=None,
        lease_expires_at=None,
        enforcers=[],
        telemetry={"age_s": None, "gpu_util_percent": None, "gpu_memory_percent": None},
        last_checkpoint=None,
    )
    lines = status_lines(docs.status(row), SCREEN)
    assert [line.split()[0] for line in lines[2:]] == ["kefu", "progress", "money", "worst"]


def test_no_jobs(docs: SimpleNamespace) -> None:
    """An empty home says what to do next."""
    assert status_lines(docs.status(), SCREEN)[-1] == "no jobs yet: costguard run JOB.toml"


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "ascii", "latin-1"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_screen_fits_and_has_its_sums(
    docs: SimpleNamespace, columns: int, encoding: str, language: str
) -> None:
    """No line is wider than the terminal, and each shows money by the sign that it has."""
    lang.select(language)
    screen = Screen(columns=columns, encoding=encoding)
    rows = [docs.job(), docs.ended("paused", "idle", job="客服" * 20)]
    for lines in (
        status_lines(docs.status(rows[0]), screen),
        status_lines(docs.status(*rows), screen),
        explain_lines(docs.explain(), screen),
        report_lines(docs.report(), screen),
    ):
        assert max(width(line) for line in lines) <= columns
        assert any(screen.yuan in line for line in lines)


def test_the_report_at_80_columns(docs: SimpleNamespace) -> None:
    """Rows with right-hand sums; totals under them; the instance gives way to the sums."""
    lines = report_lines(docs.report(), SCREEN)
    assert lines[0].split() == [
        "JOB", "STAGE", "PHASE", "PROVIDER", "GPU", "TIME", "PRICE/H", "SUBTOTAL"
    ]  # fmt: skip
    assert lines[1].endswith("RTX 3090  9 min 47 s   ¥15.00      ¥2.45")
    assert lines[2].endswith("¥1,152.45")
    assert "spent                              ¥3.21" in lines
    assert "  drift                         -¥0.0021" in lines


def test_the_csv_has_the_documents_own_figures(docs: SimpleNamespace) -> None:
    """Nothing is rounded on the way to a spreadsheet."""
    head, first, second = report_csv(docs.report()).splitlines()
    assert head == "job,stage,phase,provider,instance,gpu,hours,price_yuan_per_hour,subtotal_yuan"
    assert first == "kefu,0,train,local,i-3f2a9b,RTX 3090,0.163100,15.00,2.4465"
    assert second.startswith("客服模型微调第二轮用更长的名字,")


def test_the_csv_has_no_cell_that_a_spreadsheet_runs(docs: SimpleNamespace) -> None:
    """What a platform calls its card is text; a sum below zero stays a figure."""
    document = docs.report()
    row = document["rows"][0] | {"gpu": "=cmd|' /C calc'!A0", "subtotal_yuan": "-0.50"}
    line = report_csv(document | {"rows": [row]}).splitlines()[1]
    assert line.endswith(",'=cmd|' /C calc'!A0,0.163100,15.00,-0.50")


def test_an_empty_report(docs: SimpleNamespace) -> None:
    """Nothing spent is said; the CSV still has its heading."""
    empty = docs.report() | {"rows": []}
    assert report_lines(empty, SCREEN, totals=False) == ["nothing was spent yet"]
    assert report_csv(empty).startswith("job,stage,")


def test_explain_shows_evidence_in_units(docs: SimpleNamespace) -> None:
    """Micro-yuan become yuan, milliseconds time; the proof of the stop is there."""
    text = "\n".join(explain_lines(docs.explain(), SCREEN))
    assert "2025-03-01 11:58:00  idle\n  quiet for 300 s in the training phase" in text
    assert "    cap ¥80.00\n    quiet 5 min 01 s\n    tail:\n      step 1  a\n      b\n" in text
    assert "the meter has stopped: confirmed at 2025-03-01 11:58:22" in text
    assert "next          look at the log: `costguard logs kefu`" in text


def test_a_stop_that_was_not_seen_is_not_called_one(docs: SimpleNamespace) -> None:
    """Without a confirmation the word stopped is not said of the meter."""
    text = "\n".join(explain_lines(docs.explain(confirmed=False), SCREEN))
    assert "not confirmed" in text
    assert "the meter has stopped" not in text


def test_caps(docs: SimpleNamespace) -> None:
    """Every cap with what is left under it, in its scope."""
    item = {"scope": "month", "name": "2026-11", "cap_yuan": "500.00", "spent_yuan": "3.21",
            "reserved_yuan": "0.00", "left_yuan": "-1.50"}  # fmt: skip
    lines = budget_lines({"budgets": [item]}, SCREEN)
    assert lines[1].split() == ["month", "2026-11", "¥500.00", "¥3.21", "¥0.00", "-¥1.50"]
    assert budget_lines({"budgets": []}, SCREEN) == ["no caps are set"]


@pytest.mark.parametrize(
    ("yuan", "shown"),
    [("0.35", "¥0.35"), ("1152.4465", "¥1,152.45"), ("0.0083", "¥0.0083"), ("-0.00002", "¥0.00"),
     ("-0.0021", "-¥0.0021"), (None, "-"), ("0.00", "¥0.00")],
)  # fmt: skip
def test_sums_as_a_person_reads_them(yuan: str | None, shown: str) -> None:
    """To the fen, four decimals under a fen, no minus before a zero."""
    assert money(yuan, SCREEN) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((0, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3_599, "59 min 59 s")),
        *((3_600, "1 h 00 min"), (3_725, "1 h 02 min"), (90_000, "1 d 01 h"), (None, "-")),
    ],
)
def test_durations_as_a_person_reads_them(seconds: float | None, shown: str) -> None:
    """Two units at most."""
    assert duration(seconds) == shown


def test_durations_in_chinese() -> None:
    """With the words of the language."""
    lang.select("zh")
    shown = [duration(seconds) for seconds in (42, 200, 3_900, 90_000)]
    assert shown == ["42 秒", "3 分 20 秒", "1 小时 05 分", "1 天 01 小时"]


def test_hours_of_a_document_are_the_seconds_that_they_were_made_of() -> None:
    """0.083333 h is five minutes, not a second less."""
    for seconds in (1, 299, 300, 3_599, 3_600, 86_399):
        assert duration_of_hours(hours_text(seconds)) == duration(seconds)
    assert duration_of_hours(None) == "-"


def test_stages_are_counted_from_1_for_a_person_and_from_0_in_the_document(
    docs: SimpleNamespace,
) -> None:
    """On screen; the CSV is the document's."""
    document = docs.report()
    row = document["rows"][0]
    document["rows"] = [row, row | {"stage": 1}, row | {"stage": None}]
    shown = [line.split()[1] for line in report_lines(document, SCREEN, totals=False)[1:]]
    assert shown == ["1", "2", "-"]
    kept = [line.split(",")[1] for line in report_csv(document).splitlines()[1:]]
    assert kept == ["0", "1", ""]


def test_a_monthly_lease_beside_a_short_run_is_told_in_hours(docs: SimpleNamespace) -> None:
    """In both languages; a factor of thousands would say nothing."""
    lease = {
        "gpu": "A100",
        "month_yuan": "12000.00",
        "weeks": 1,
        "would_cost_yuan": "3000.00",
        "times": None,
        "would_last_hours": "1578.947368",
        "ran_hours": "0.166667",
    }
    assert month_words(lease, SCREEN) == (
        "An A100 by the month (¥12,000.00) would have cost ¥3,000.00 for a week: that pays for"
        " 1,579 hours here, and 10 min 00 s ran."
    )
    longer = lease | {"times": "40.0", "weeks": 2}
    assert month_words(longer, SCREEN).endswith(" for 2 weeks: 40.0 times as much.")
    lang.select("zh")
    assert month_words(lease, SCREEN) == (
        "若包月租 A100（每月 ¥12,000.00），一周要 ¥3,000.00，够在这里用 1,579 小时，"
        "而实际只用了 10 分 00 秒。"
    )
    assert month_words(longer, SCREEN).endswith("，是这里的 40.0 倍。")
