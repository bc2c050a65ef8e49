"""Plain text for a terminal: widths that know Chinese, tables that fit, colour if wanted."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS_DEFAULT = 80
COLUMNS_MIN = 40
GAP = "  "
INDENT = "  "
LABEL_COLUMNS = 14

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Screen:
    """What the place that we draw on can show."""

    columns: int = COLUMNS_DEFAULT
    colour: bool = False
    encoding: str = "utf-8"

    @property
    def yuan(self) -> str:
        """The sign of money: ¥, 元 where the encoding has no ¥ (GBK), CNY where it has neither."""
        return next((sign for sign in ("¥", "元") if self.shows(sign)), "CNY ")

    @property
    def ellipsis(self) -> str:
        """What stands for what was cut off."""
        return "…" if self.shows("…") else "~"

    def shows(self, text: str) -> bool:
        """Whether the encoding has every character of `text`."""
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def safe(self, text: str) -> str:
        """`text` as it will come out, so that what is measured is what is seen."""
        return text.encode(self.encoding, "replace").decode(self.encoding)

    def paint(self, text: str, *styles: str) -> str:
        """`text` in bold, dim or a colour where that is wanted and possible."""
        if not self.colour or not styles or not text:
            return text
        codes = ";".join(_CODES[style] for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m"


def screen_of(stream: TextIO) -> Screen:
    """The screen behind `stream`: 80 columns when it is no terminal and COLUMNS does not say."""
    terminal = stream.isatty()
    columns = COLUMNS_DEFAULT
    if terminal or os.environ.get("COLUMNS", "").isdigit():
        columns = max(shutil.get_terminal_size((COLUMNS_DEFAULT, 24)).columns, COLUMNS_MIN)
    return Screen(
        columns=columns,
        colour=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        encoding=getattr(stream, "encoding", None) or "ascii",
    )


def never_crash_on_encoding(*streams: TextIO) -> None:
    """Let `streams` show a `?` for what their encoding lacks: a report must not die of a name."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def width(text: str) -> int:
    """Columns that `text` takes in a terminal: two for a Chinese character, none for an accent."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(_char_width(char) for char in text)


def fit(text: str, columns: int, screen: Screen) -> str:
    """`text`, cut with an ellipsis to at most `columns`."""
    if width(text) <= columns:
        return text
    kept, used = "", width(screen.ellipsis)
    for char in text:
        used += _char_width(char)
        if used > columns:
            break
        kept += char
    return kept + screen.ellipsis


def wrap(text: str, columns: int) -> list[str]:
    """`text` in lines of at most `columns`, broken at blanks, or anywhere in Chinese."""
    lines, line = [], ""
    for word in _breakable(text):
        if line and width(line) + width(word.rstrip()) > columns:
            lines.append(line.rstrip())
            line = ""
        while width(word.rstrip()) > columns:
            head = _head(word, columns)
            lines.append(head)
            word = word[len(head) :]  # noqa: PLW2901  (a word longer than the line is eaten up)
        line += word if line or not lines else word.lstrip()
    return [*lines, line.rstrip()]


@dataclass(frozen=True, slots=True)
class Column:
    """One column; in a table too wide `optional` ones go, the last first, then `elastic` shrink."""

    title: str
    right: bool = False
    elastic: bool = False
    optional: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], screen: Screen) -> list[str]:
    """The lines of a table with a bold heading, made to fit the screen as its columns allow."""
    cells = [[screen.safe(cell) for cell in row] for row in ([c.title for c in columns], *rows)]
    widths = [max(width(row[index]) for row in cells) for index in range(len(columns))]
    excess = sum(widths) + len(GAP) * (len(columns) - 1) - screen.columns
    spare = [index for index, column in enumerate(columns) if column.optional]
    if excess > 0 and spare:
        kept = [index for index in range(len(columns)) if index != spare[-1]]
        fewer = [[row[index] for index in kept] for row in rows]
        return table([columns[index] for index in kept], fewer, screen)
    while excess > 0:
        elastic = [index for index, column in enumerate(columns) if column.elastic]
        widest = max(elastic, key=lambda index: widths[index], default=None)
        if widest is None or widths[widest] <= max(4, width(columns[widest].title)):
            break
        widths[widest] -= 1
        excess -= 1
    lines = [_row(row, columns, widths, screen) for row in cells]
    return [screen.paint(lines[0], "bold"), *lines[1:]]


def labelled(label: str, parts: list[str], screen: Screen) -> list[str]:
    """`label` and its parts, joined while they fit and else on lines of their own."""
    if not parts:
        return []
    room = screen.columns - len(INDENT) - LABEL_COLUMNS
    lines: list[str] = []
    for part in (piece for text in parts for piece in wrap(text, room)):
        if lines and width(lines[-1]) + 3 + width(part) <= room:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    head = fit(label, LABEL_COLUMNS - 2, screen)
    blanks = " " * (LABEL_COLUMNS - width(head))
    first = INDENT + screen.paint(head, "cyan") + blanks + lines[0]
    return [first, *[" " * (len(INDENT) + LABEL_COLUMNS) + line for line in lines[1:]]]


def indented(text: str, screen: Screen, *, deeper: bool = False) -> list[str]:
    """`text` in lines that fit, set in from the left."""
    blanks = INDENT * 2 if deeper else INDENT
    return [blanks + line for line in wrap(str(text), screen.columns - len(blanks))]


def print_lines(lines: Sequence[str], stream: TextIO | None = None) -> None:
    """Write `lines`, to standard output unless told otherwise."""
    print("\n".join(lines), file=stream or sys.stdout, flush=True)


def _row(
    row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], screen: Screen
) -> str:
    shown = []
    for text, column, columns_wide in zip(row, columns, widths, strict=True):
        cut = fit(text, columns_wide, screen)
        blanks = " " * (columns_wide - width(cut))
        shown.append(blanks + cut if column.right else cut + blanks)
    return GAP.join(shown).rstrip()


def _char_width(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf", "Cc"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def _head(word: str, columns: int) -> str:
    used = 0
    for index, char in enumerate(word):
        used += _char_width(char)
        if used > columns:
            return word[:index]
    return word


def _breakable(text: str) -> list[str]:
    """The pieces between which a line may end; a figure and its unit stay together."""
    pieces, piece = [], ""
    for char in text:
        wide = _char_width(char) == 2
        figure = piece.rstrip(" ")[-1:].isdigit()
        if piece and wide and unicodedata.category(char)[0] != "P" and not figure:
            pieces.append(piece)
            piece = ""
        piece += char
        if char == " " and not figure:
            pieces.append(piece)
            piece = ""
    return [*pieces, piece] if piece else pieces
