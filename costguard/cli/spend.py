"""Draw the spend report: a table with totals for a person, CSV for a spreadsheet."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from costguard.cli.text import Column, Screen, table, width, wrap
from costguard.cli.words import (
    Document,
    duration_of_hours,
    money,
    percent,
    phase_word,
    stage_number,
    with_aside,
)
from costguard.lang import _

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = ("job", "phase", "provider", "instance", "gpu")  # told by others; the rest are figures


def report_lines(document: Document, screen: Screen, *, totals: bool = True) -> list[str]:
    """The spend report: its rows as a table, and the totals under it."""
    rows = document["rows"]
    if not rows:
        lines = [_("nothing was spent yet")]
    else:
        present = report_columns(rows)
        cells = [
            [report_cell(key, row.get(key), screen) for key, _column in present] for row in rows
        ]
        lines = table([column for _key, column in present], cells, screen)
    return [*lines, "", *_totals_lines(document, screen)] if totals else lines


def report_columns(rows: Sequence[Document]) -> list[tuple[str, Column]]:
    """The columns that these rows have something in, by the document's keys."""
    columns = [
        ("job", Column(_("JOB"), elastic=True)),
        ("day", Column(_("DAY"))),
        ("stage", Column(_("STAGE"))),
        ("phase", Column(_("PHASE"), elastic=True)),
        ("provider", Column(_("PROVIDER"), elastic=True)),
        ("instance", Column(_("INSTANCE"), optional=True)),
        ("gpu", Column("GPU", elastic=True)),
        ("hours", Column(_("TIME"), right=True)),
        ("price_yuan_per_hour", Column(_("PRICE/H"), right=True)),
        ("subtotal_yuan", Column(_("SUBTOTAL"), right=True)),
    ]
    return [item for item in columns if any(row.get(item[0]) is not None for row in rows)]


def report_csv(document: Document) -> str:
    """The report's rows as CSV under the document's own keys, figures unrounded."""
    import csv
    import io

    from costguard.report.ledger_csv import safe

    keys = list(dict.fromkeys(key for row in document["rows"] for key in row)) or [
        "job",
        "stage",
        "phase",
        "provider",
        "instance",
        "gpu",
        "hours",
        "price_yuan_per_hour",
        "subtotal_yuan",
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, restval="", lineterminator="\n")
    writer.writeheader()
    for row in document["rows"]:
        writer.writerow(row | {key: safe(row[key]) for key in WORDS if row.get(key)})
    return out.getvalue()


def report_cell(key: str, value: object, screen: Screen) -> str:
    """One figure or word of a row as a person reads it."""
    if value is None:
        return "-"
    if key.endswith(("_yuan", "_yuan_per_hour")):
        return money(value, screen)
    if key == "phase":
        return phase_word(str(value))
    if key == "stage":
        return stage_number(value)
    return duration_of_hours(value) if key == "hours" else str(value)


def month_words(lease: Document | None, screen: Screen) -> str:
    """What a monthly lease would have cost instead, as a sentence; empty where nothing ran.

    Where so little was spent that a factor says nothing, it is told how long that would last here.
    """
    if not lease:
        return ""
    weeks = int(lease["weeks"])
    if lease["times"] is not None:
        text = _(
            "An {gpu} by the month ({month}) would have cost {cost} for {weeks}: {times} times as"
            " much."
        )
    else:
        text = _(
            "An {gpu} by the month ({month}) would have cost {cost} for {weeks}: that pays for"
            " {lasts} hours here, and {ran} ran."
        )
    return text.format(
        gpu=lease["gpu"],
        month=money(lease["month_yuan"], screen),
        cost=money(lease["would_cost_yuan"], screen),
        weeks=_("a week") if weeks == 1 else _("{weeks} weeks").format(weeks=weeks),
        times=lease["times"],
        lasts=f"{Decimal(lease['would_last_hours']):,.0f}",
        ran=duration_of_hours(lease["ran_hours"]),
    )


def _totals_lines(document: Document, screen: Screen) -> list[str]:
    """Label and amount, one a line; a sum that the document does not have is left out."""
    totals = document["totals"]
    rows = [
        (_("billed time"), duration_of_hours(totals.get("billed_hours"))),
        *[
            (label, money(totals[key], screen))
            for label, key in (
                (_("spent"), "spent_yuan"),
                ("  " + _("as metered here"), "estimated_yuan"),
                ("  " + _("confirmed by the platform"), "confirmed_yuan"),
                ("  " + _("drift"), "drift_yuan"),
                ("  " + _("set-up"), "setup_yuan"),
                ("  " + _("idle"), "idle_yuan"),
                ("  " + _("paused disk"), "disk_yuan"),
                ("  " + _("overrun"), "overrun_yuan"),
                (_("reserved"), "reserved_yuan"),
                (_("cap"), "cap_yuan"),
                (_("left"), "left_yuan"),
                (_("worst case"), "worst_case_yuan"),
            )
            if totals.get(key) is not None
        ],
    ]
    beside = {
        "  " + _("set-up"): _share(totals.get("setup_percent")),
        "  " + _("idle"): _share(totals.get("idle_percent")),
    }
    labels = max(width(label) for label, _sum in rows)
    sums = max(width(amount) for _label, amount in rows)
    lines = []
    for label, amount in rows:
        line = label + " " * (labels - width(label) + 2 + sums - width(amount)) + amount
        lines.append(line + beside.get(label, ""))
    months = month_words(document.get("by_the_month"), screen)
    return [*lines, *(["", *wrap(months, screen.columns)] if months else [])]


def _share(of_all: object) -> str:
    if of_all is None or not Decimal(str(of_all)):
        return ""
    return with_aside("", percent(str(of_all)))
