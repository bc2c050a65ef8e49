"""What `watch` draws under the status, and `explain` under a verdict: bars, and how things went."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from costguard.cli.spark import bar, sparkline
from costguard.cli.text import INDENT, LABEL_COLUMNS, fit, width
from costguard.cli.words import clock, decimal, money, percent, steps
from costguard.lang import _

if TYPE_CHECKING:
    from costguard.cli.text import Screen
    from costguard.cli.words import Document

KEPT = 600  # ten minutes of looks
ROOM_FOR_FIGURES = 24


@dataclass
class History:
    """One job's figures, one a look; the loss only as it changes."""

    losses: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    utils: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    step: object = None

    def note(self, row: Document) -> None:
        """Take in what the status has now."""
        if row.get("step") != self.step:
            self.step = row.get("step")
            self.losses.append(row.get("loss"))
        self.utils.append((row.get("telemetry") or {}).get("gpu_util_percent"))


@dataclass
class Histories:
    """Every job's, as long as the watch lasts."""

    _of: dict[str, History] = field(default_factory=dict)

    def lines(self, document: Document, screen: Screen) -> list[str]:
        """The drawings of the one job that is watched; of several the table says enough."""
        for row in document["jobs"]:
            self._of.setdefault(row["job"], History()).note(row)
        if len(document["jobs"]) != 1:
            return []
        row = document["jobs"][0]
        return ["", *_drawn(row, self._of[row["job"]], screen)]


def lead_up_lines(seen: Document | None, screen: Screen) -> list[str]:
    """How GPU and loss went before a verdict, or until now; [] where nothing was heard."""
    if seen is None:
        return []
    head = _("from {start} to {end}, {seconds} s a mark").format(
        start=clock(seen["from"]), end=clock(seen["to"]), seconds=seen["slot_s"]
    )
    lines = ["", f"{INDENT}{head}"]
    for label, values, shown in (
        ("GPU", seen["gpu_util_percent"], _percent),
        (_("loss"), seen["loss"], lambda value: decimal(value, 4)),
    ):
        known = [value for value in values if value is not None]
        if known:
            drawing = sparkline(values, len(values), screen)
            lines.append(_line(label, drawing, shown(known[-1]), screen))
    return lines


def _drawn(row: Document, history: History, screen: Screen) -> list[str]:
    room = max(screen.columns - len(INDENT) - LABEL_COLUMNS - ROOM_FOR_FIGURES, 8)
    budget = row["budget"]
    spent, cap = Decimal(budget["spent_yuan"]), Decimal(budget["cap_yuan"])
    figures = f"{money(spent, screen)} / {money(cap, screen)}"
    lines = [_line(_("money"), bar(float(spent), float(cap), room, screen), figures, screen)]
    if row.get("step") is not None:
        done = bar(row["step"], row.get("total_steps") or 0, room, screen)
        lines.insert(0, _line(_("step"), done, steps(row), screen))
    for label, values, shown in (
        (_("loss"), history.losses, decimal(row.get("loss"), 4)),
        ("GPU", history.utils, _percent(history.utils[-1])),
    ):
        if any(value is not None for value in values):
            lines.append(_line(label, sparkline(values, room, screen), shown, screen))
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(f"{value:.0f}")


def _line(label: str, drawing: str, figures: str, screen: Screen) -> str:
    head = fit(label, LABEL_COLUMNS - 2, screen)
    blanks = " " * (LABEL_COLUMNS - width(head))
    return f"{INDENT}{screen.paint(head, 'cyan')}{blanks}{drawing}  {figures}"
