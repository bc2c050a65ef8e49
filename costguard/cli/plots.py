"""Charts as inline SVG, drawn here: no script, no font, nothing to fetch.

The drawing stretches with the page (`preserveAspectRatio="none"`, strokes that do not scale) and
every word stands beside it as HTML, so that a label is as large on a phone as on a desk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDE, HIGH = 1_000, 240
Y_TICKS = 4
X_TICKS = 4
NICE = (1, 2, 2.5, 5, 10)
ONE_POINT_WIDTH = 0.01  # a dot is a line of hardly any length, with round ends

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its points from left to right, its colour's class, and what it is called."""

    name: str
    css: str
    points: Sequence[Point]
    steps: bool = False  # holds its value until the next point
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A label on an axis, and where: 0 at the left or the bottom, 1 at the other end."""

    at: float
    text: str


def plot(title: str, lines: Sequence[Line], x_max: float, y: Axis, x_ticks: Iterable[Tick]) -> str:
    """A figure with its heading, its legend and its curves; what they are is in its label too."""
    drawn = [line for line in lines if line.points]
    grid = "".join(f'<path class="grid" d="M0 {_y(tick.at):.1f}H{WIDE}"/>' for tick in y.ticks)
    paths = "".join(_path(line, x_max, y) for line in drawn)
    y_words = "".join(
        f'<span class="y" style="bottom:{100 * tick.at:.1f}%">{escape(tick.text)}</span>'
        for tick in y.ticks
    )
    x_words = "".join(
        f'<span class="x" style="left:{100 * tick.at:.1f}%">{escape(tick.text)}</span>'
        for tick in x_ticks
    )
    legend = "".join(f'<li><i class="{line.css}"></i>{escape(line.name)}</li>' for line in drawn)
    said = escape(f"{title}: {', '.join(line.name for line in drawn)}", quote=True)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><ul class="legend">{legend}</ul>'
        f'<div class="plot"><svg viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}">{grid}{paths}</svg>{y_words}{x_words}</div></figure>'
    )


def bar(share: float, css: str) -> str:
    """A bar of that share of its place's width, from 0 to 1."""
    width = max(min(share, 1.0), 0.0) * WIDE
    return (
        f'<svg class="bar" viewBox="0 0 {WIDE} 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="back" width="{WIDE}" height="10"/>'
        f'<rect class="{css}" width="{width:.1f}" height="10"/></svg>'
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """The upright axis: from `low` at the bottom to `high` at the top, with its labels."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def place(self, value: float) -> float:
        """Where a value is: 0 at the bottom, 1 at the top."""
        return (value - self.low) / (self.high - self.low)


def axis(low: float, high: float, unit: str = "{}") -> Axis:
    """An axis that holds `low` and `high`, with round figures on it; `unit` says how they look."""
    if high <= low:
        high = low + (abs(low) or 1)
    step = _nice((high - low) / Y_TICKS)
    low = math.floor(low / step + 1e-9) * step
    high = math.ceil(high / step - 1e-9) * step
    digits = max(
        0, -math.floor(math.log10(step)) + (step / 10 ** math.floor(math.log10(step)) == 2.5)
    )
    count = round((high - low) / step)
    marks = tuple(
        Tick(n / count, unit.format(f"{low + n * step:,.{digits}f}")) for n in range(count + 1)
    )
    return Axis(low, high, marks)


def _nice(rough: float) -> float:
    """The next round figure: 1, 2, 2.5 or 5 of some power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(each * power for each in NICE if each * power >= rough * 0.999)


def _path(line: Line, x_max: float, y: Axis) -> str:
    places = [
        (min(max(x / x_max, 0), 1) * WIDE if x_max else 0, _y(y.place(value)))
        for x, value in line.points
    ]
    data = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for before, (x, height) in pairwise(places):
        if line.steps:
            data += f"H{x:.1f}V{height:.1f}"
        elif (x, height) != before:
            data += f"L{x:.1f} {height:.1f}"
    if len(places) == 1:
        data += f"h{ONE_POINT_WIDTH}"
    name = f"<title>{escape(line.name)}</title>"
    below = ""
    if line.filled:
        below = f'<path class="area {line.css}" d="{data}V{HIGH}H{places[0][0]:.1f}Z"/>'
    return f'{below}<path class="line {line.css}" d="{data}">{name}</path>'


def _y(share: float) -> float:
    return HIGH * (1 - min(max(share, 0), 1))
