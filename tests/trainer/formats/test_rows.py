from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given, strategies as st

from trainer.formats.rows import read_rows
from trainer.sample import RowError

GOOD = '{"a": "b"}'


def errors(content: bytes, suffix: str) -> list[RowError]:
    return [row for _line, row in read_rows(content, suffix) if isinstance(row, RowError)]


def good_lines(content: bytes, suffix: str) -> list[int]:
    return [line for line, row in read_rows(content, suffix) if not isinstance(row, RowError)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_utf16_is_told_by_its_mark(suffix: str) -> None:
    """What Windows calls Unicode is one error of the file, with the command that converts it."""
    (error,) = errors("问答".encode("utf-16"), suffix)
    assert "UTF-16" in error.what
    assert "iconv" in error.hint


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_gbk_is_told_by_its_bytes(suffix: str) -> None:
    """Files of a Chinese Windows are the commonest wrong encoding; the hint names it."""
    text = {"jsonl": '{"a": "问"}', "json": '[\n{"a": "问"}]', "csv": "a,b\n问,答\n"}
    (error,) = errors(text[suffix[1:]].encode("gbk"), suffix)
    assert error.line == (1 if suffix == ".jsonl" else 2)
    assert "GBK" in error.hint


def test_bytes_of_no_encoding_are_not_called_gbk() -> None:
    """The hint to convert stands only where converting can work."""
    (error,) = errors(b'{"a": "\xff\xff\xff"}', ".jsonl")
    assert "GBK" not in error.hint


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_mark_and_windows_line_ends_are_no_error(suffix: str) -> None:
    """BOM and CRLF change neither rows nor line numbers."""
    text = {"jsonl": f"{GOOD}\r\n\r\n{GOOD}\r\n", "json": f"[{GOOD},\r\n\r\n{GOOD}]\r\n",
            "csv": "a\r\nb\r\n\r\nb\r\n"}  # fmt: skip
    content = b"\xef\xbb\xbf" + text[suffix[1:]].encode()
    rows = list(read_rows(content, suffix))
    assert [row for _line, row in rows] == [{"a": "b"}, {"a": "b"}]
    assert [line for line, _row in rows] == ([2, 4] if suffix == ".csv" else [1, 3])


def test_json_lines_under_the_name_of_json_are_read() -> None:
    """LLaMA-Factory reads them too; a single object over many lines is no such file."""
    assert good_lines(f"{GOOD}\n{GOOD}\n".encode(), ".json") == [1, 2]
    (error,) = errors(b'{\n"a": "b"\n}', ".json")
    assert error.what == "the file is not an array"


def test_what_follows_the_array_is_an_error() -> None:
    """Two arrays in one file: the second is not dropped in silence."""
    rows = list(read_rows(b'[{"a": "b"}]\n[{"c": "d"}]', ".json"))
    assert [line for line, _row in rows] == [1, 2]
    assert "follows the closing" in rows[1][1].what


def test_a_line_of_ten_megabytes_is_read() -> None:
    """As JSON and as a CSV cell, though csv's own limit is 131,072 characters."""
    long = "问" * 3_500_000
    ((_line, row),) = read_rows(json.dumps({"a": long}).encode(), ".jsonl")
    assert len(row["a"]) == len(long)
    before = csv.field_size_limit()
    ((_line, row),) = read_rows(f"a,b\n{long},c\n".encode(), ".csv")
    assert len(row["a"]) == len(long)
    assert csv.field_size_limit() == before


def test_nul_bytes_are_an_error_of_their_row() -> None:
    """Raw in a JSON text they are no JSON; in a table no cell is sure any more."""
    assert [e.line for e in errors(b'{"a": "b"}\n{"a": "\0"}\n\0\n{"a": "b"}', ".jsonl")] == [2, 3]
    (error,) = errors(b"a,b\nc,d\n\0,e\n", ".csv")
    assert (error.line, "NUL" in error.what) == (3, True)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, "9" * 10_000])
def test_hostile_json_is_an_error_not_a_crash(suffix: str, content: str) -> None:
    """Deep nesting and numbers of 10,000 digits, which Python refuses to read."""
    text = content if suffix == ".jsonl" else "[" + content
    (error,) = errors(text.encode(), suffix)
    assert error.line == 1


def test_a_table_keeps_line_numbers_across_quoted_line_ends() -> None:
    """A row carries the line in which it begins, not its number."""
    rows = list(read_rows(b'q,a\n"one\ntwo",x\nthree,y\n', ".csv"))
    assert rows == [(2, {"q": "one\ntwo", "a": "x"}), (4, {"q": "three", "a": "y"})]


def test_a_row_with_too_many_cells_is_named() -> None:
    """A comma in a text without quotes is the usual cause, and the hint says so."""
    rows = list(read_rows("q,a\n一,二,三\n四,五\n".encode(), ".csv"))
    assert (rows[0][0], "3 cells" in rows[0][1].what, "quotes" in rows[0][1].hint) == (
        2,
        True,
        True,
    )
    assert rows[1] == (3, {"q": "四", "a": "五"})


def test_a_broken_quote_ends_the_table() -> None:
    """What follows cannot be told apart safely, and the hint says that it was not read."""
    (error,) = errors(b'q,a\nb,c\n"d" e,f\ng,h\n', ".csv")
    assert (error.line, "no later row" in error.hint) == (3, True)


@given(st.binary(max_size=400), st.sampled_from([".jsonl", ".json", ".csv"]))
def test_no_bytes_crash_it(content: bytes, suffix: str) -> None:
    """Whatever a file holds: rows and errors, each with a line of the file."""
    last = content.count(b"\n") + content.count(b"\r") + 1
    for line, row in read_rows(content, suffix):
        assert 1 <= line <= last + 1
        if isinstance(row, RowError):
            assert row.line == line


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=20)), max_size=8))
def test_what_was_written_is_read(rows: list[dict[str, str]]) -> None:
    """As lines and as an array, escaped or not: the same rows in the same order."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    array = json.dumps(rows, indent=1).encode()
    assert [row for _line, row in read_rows(lines, ".jsonl")] == rows
    assert [row for _line, row in read_rows(array, ".json")] == rows
