"""Draw the spend report: a table with totals for a person, CSV for a spreadsheet."""

from __future__ import annotations

from costguard.cli.text import Column, Screen, table, width
from costguard.cli.words import Document, decimal, money, phase_word
from costguard.lang import _

WORDS = ("job", "phase", "provider", "instance", "gpu")  # told by others; the rest are figures
HOURS_DIGITS = 4  # a third of a second, so that a short run does not look as if it took no time


def report_lines(document: Document, screen: Screen, *, totals: bool = True) -> list[str]:
    """The spend report: its rows as a table, and the totals under it."""
    columns = [
        ("job", Column(_("JOB"), elastic=True)),
        ("day", Column(_("DAY"))),
        ("stage", Column(_("STAGE"))),
        ("phase", Column(_("PHASE"), elastic=True)),
        ("provider", Column(_("PROVIDER"), elastic=True)),
        ("instance", Column(_("INSTANCE"), optional=True)),
        ("gpu", Column("GPU", elastic=True)),
        ("hours", Column(_("HOURS"), right=True)),
        ("price_yuan_per_hour", Column(_("PRICE/H"), right=True)),
        ("subtotal_yuan", Column(_("SUBTOTAL"), right=True)),
    ]
    rows = document["rows"]
    present = [item for item in columns if any(row.get(item[0]) is not None for row in rows)]
    if not rows:
        lines = [_("nothing was spent yet")]
    else:
        cells = [
            [_report_cell(key, row.get(key), screen) for key, _column in present] for row in rows
        ]
        lines = table([column for _key, column in present], cells, screen)
    return [*lines, "", *_totals_lines(document["totals"], screen)] if totals else lines


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


def _report_cell(key: str, value: object, screen: Screen) -> str:
    if value is None:
        return "-"
    if key.endswith(("_yuan", "_yuan_per_hour")):
        return money(value, screen)
    if key == "phase":
        return phase_word(str(value))
    return decimal(value, HOURS_DIGITS) if key == "hours" else str(value)


def _totals_lines(totals: Document, screen: Screen) -> list[str]:
    """Label and amount, one a line; a sum that the document does not have is left out."""
    rows = [
        (_("billed hours"), decimal(totals.get("billed_hours"), HOURS_DIGITS)),
        *[
            (label, money(totals[key], screen))
            for label, key in (
                (_("spent"), "spent_yuan"),
                ("  " + _("as metered here"), "estimated_yuan"),
                ("  " + _("confirmed by the platform"), "confirmed_yuan"),
                ("  " + _("drift"), "drift_yuan"),
                ("  " + _("idle"), "idle_yuan"),
                ("  " + _("overrun"), "overrun_yuan"),
                (_("reserved"), "reserved_yuan"),
                (_("cap"), "cap_yuan"),
                (_("left"), "left_yuan"),
                (_("worst case"), "worst_case_yuan"),
            )
            if totals.get(key) is not None
        ],
    ]
    labels = max(width(label) for label, _sum in rows)
    sums = max(width(amount) for _label, amount in rows)
    return [
        label + " " * (labels - width(label) + 2 + sums - width(amount)) + amount
        for label, amount in rows
    ]
