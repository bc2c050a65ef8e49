"""The ledger as CSV: one entry a row, figures unrounded, and no cell that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from costguard.core.money import yuan_text
from costguard.report.figures import time_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from costguard.report.ledger_lines import Line

COLUMNS = (
    "entry",
    "at",
    "date",
    "job",
    "project",
    "month",
    "kind",
    "amount_yuan",
    "covered_yuan",
    "spent_change_yuan",
    "reserved_change_yuan",
    "lease",
    "interval",
    "provider",
    "instance",
    "from",
    "to",
    "stage",
    "phase",
    "key",
    "note",
    "hash",
)
# What a spreadsheet takes for the beginning of a formula; = + - @ also as wide as Chinese letters.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_chunks(lines: Iterable[Line]) -> Iterator[str]:
    """The document, piece by piece."""
    yield _row(COLUMNS)
    for line in lines:
        entry = line.entry
        yield _row(
            (
                str(entry.id),
                time_text(entry.at_ms),
                line.on.isoformat(),
                safe(line.job),
                safe(entry.project),
                entry.month,
                entry.kind,
                yuan_text(entry.amount_micros),
                yuan_text(entry.covered_micros),
                yuan_text(line.spent_micros),
                yuan_text(line.reserved_micros),
                entry.lease_id,
                entry.interval_id,
                safe(line.provider or ""),
                safe(line.instance or ""),
                time_text(entry.from_ms),
                time_text(entry.to_ms),
                entry.stage,
                safe(entry.phase or ""),
                safe(entry.key),
                safe(entry.note),
                entry.hash,
            )
        )


def safe(text: str) -> str:
    """`text` as a spreadsheet shows it: an apostrophe keeps a formula from being one."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def _row(cells: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()
