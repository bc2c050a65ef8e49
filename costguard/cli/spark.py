"""Small drawings in a line of text: how far something is, and how a figure has gone lately."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.cli.text import Screen

HEIGHTS, PLAIN_HEIGHTS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
FULL, EMPTY, PLAIN_FULL, PLAIN_EMPTY = "█", "░", "#", "."


def sparkline(values: Sequence[float | None], columns: int, screen: Screen) -> str:
    """The newest `columns` values as heights between their least and their most; blank: unknown."""
    heights = HEIGHTS if screen.shows(HEIGHTS) else PLAIN_HEIGHTS
    shown = list(values)[-columns:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, spread = min(known), max(known) - min(known)
    top = len(heights) - 1
    return "".join(
        " " if value is None else heights[round((value - low) / spread * top) if spread else 0]
        for value in shown
    )


def bar(done: float, whole: float, columns: int, screen: Screen) -> str:
    """A bar that is as full as `done` is of `whole`; never fuller than full."""
    fancy = screen.shows(FULL + EMPTY)
    full, empty = (FULL, EMPTY) if fancy else (PLAIN_FULL, PLAIN_EMPTY)
    filled = 0 if whole <= 0 else min(max(round(done / whole * columns), 0), columns)
    return full * filled + empty * (columns - filled)
