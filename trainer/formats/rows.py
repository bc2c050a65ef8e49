"""From a file's bytes to its rows, each with the line that it begins in.

A row that cannot be read is a RowError in its place; reading goes on after it wherever that can
be done safely. Nothing is dropped in silence.
"""

from __future__ import annotations

import csv
import io
import json
import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from trainer.sample import RowError

if TYPE_CHECKING:
    from collections.abc import Iterator

    Rows = Iterator[tuple[int, Any]]

SUFFIXES = (".jsonl", ".json", ".csv")
_BOM = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CELL_CHARACTERS_MAX = 2**30  # csv's own limit of 131,072 is shorter than a long conversation
CONVERT_HINT = "save the file as UTF-8: iconv -f {codec} -t UTF-8 OLD > NEW"


def read_rows(content: bytes, suffix: str) -> Rows:
    """(line number, row) of each row of a file of that suffix; a RowError stands for a bad row."""
    if content.startswith(_UTF16_MARKS):
        hint = CONVERT_HINT.format(codec="UTF-16")
        yield 1, RowError(1, "the file is UTF-16, not UTF-8", hint)
        return
    if suffix == ".csv":
        yield from _rows_of_table(content)
    elif suffix == ".json" and not _begins_with_an_object_a_line(content):
        yield from _rows_of_array(content)
    else:
        yield from _rows_of_lines(content)


def _begins_with_an_object_a_line(content: bytes) -> bool:
    """JSON lines under the name of .json are common, and LLaMA-Factory reads them."""
    first = content.removeprefix(_BOM).lstrip().split(b"\n", 1)[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _rows_of_lines(content: bytes) -> Rows:
    for line, raw in enumerate(content.removeprefix(_BOM).split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield line, _encoding_error(line, raw, error.start)
        except json.JSONDecodeError as error:
            yield line, _json_error(line, error)
        except (RecursionError, ValueError) as error:
            yield line, _unreadable(line, error)
        else:
            yield line, row


def _rows_of_array(content: bytes) -> Rows:
    """Reading ends at the first broken element: what follows it cannot be told apart safely."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        start = content.rfind(b"\n", 0, error.start) + 1
        end = content.find(b"\n", error.start)
        raw = content[start : end if end >= 0 else None]
        yield line, _encoding_error(line, raw, error.start - start)
        return
    newlines = [match.start() for match in re.finditer("\n", text)]

    def line_of(position: int) -> int:
        return bisect_left(newlines, position) + 1

    position = _skip_blanks(text, 0)
    if text[position : position + 1] != "[":
        hint = "write [ {…}, {…} ], or one object a line"
        yield line_of(position), RowError(line_of(position), "the file is not an array", hint)
        return
    decoder = json.JSONDecoder()
    position = _skip_blanks(text, position + 1)
    while text[position : position + 1] != "]":
        line = line_of(position)
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield line_of(error.pos), _json_error(line_of(error.pos), error)
            return
        except (RecursionError, ValueError) as error:
            yield line, _unreadable(line, error)
            return
        yield line, row
        position = _skip_blanks(text, position)
        if text[position : position + 1] == ",":
            position = _skip_blanks(text, position + 1)
        elif text[position : position + 1] != "]":
            line = line_of(position)
            yield line, RowError(line, "a comma or the closing ] is missing here", "put it in")
            return
    rest = _skip_blanks(text, position + 1)
    if rest < len(text):
        line = line_of(rest)
        yield line, RowError(line, "something follows the closing ]", "take it out")


def _rows_of_table(content: bytes) -> Rows:
    """Rows of a CSV file with a header line, as dicts of texts; empty cells are left out."""
    content = content.removeprefix(_BOM)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        # One wrong byte may sit inside a quoted cell of many lines: no later row is sure.
        yield line, _encoding_error(line, content[error.start : error.start + 4096], 0)
        return
    before = csv.field_size_limit(_CELL_CHARACTERS_MAX)
    try:
        yield from _cells(text)
    finally:
        csv.field_size_limit(before)


def _cells(text: str) -> Rows:
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        hint = "the file was cut or converted wrongly there: take it out"
        yield line, RowError(line, "the line holds a NUL character", hint)
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            begins, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                what = f"the row has {len(cells)} cells, the header {len(header)}"
                yield begins, RowError(begins, what, 'put texts with commas in "quotes"')
            else:
                pairs = zip(header, cells, strict=True)
                yield begins, {name: cell for name, cell in pairs if name and cell.strip()}
    except csv.Error as error:
        yield line, RowError(line, f"not CSV: {error}", "mend it there: no later row was read")


def _unreadable(line: int, error: Exception) -> RowError:
    if isinstance(error, RecursionError):
        what = "the JSON is nested too deeply to be read"
        return RowError(line, what, "take the nesting out")
    return RowError(line, f"not JSON: {error}", "mend it there")


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _encoding_error(line: int, raw: bytes, start: int) -> RowError:
    """Say which byte, and whether it reads as GBK, as files of Chinese Windows do."""
    what = f"byte {start + 1} of the line is not UTF-8"
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        hint = "save the file as UTF-8"
    else:
        hint = CONVERT_HINT.format(codec="GB18030") + " (it may be GBK)"
    return RowError(line, what, hint)


def _json_error(line: int, error: json.JSONDecodeError) -> RowError:
    return RowError(line, f"not JSON: {error.msg} (column {error.colno})", "mend it there")
