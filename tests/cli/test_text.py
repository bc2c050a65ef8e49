from __future__ import annotations

import io

import pytest

from costguard.cli.text import Column, Screen, fit, labelled, screen_of, table, width, wrap

UTF8 = Screen()


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("客服", 4), ("é", 1), ("e\u0301", 1), ("\uff0c", 2), ("a\u200bb", 2)],
)
def test_widths(text: str, columns: int) -> None:
    """A Chinese character takes two columns, an accent and an invisible character none."""
    assert width(text) == columns


def test_what_does_not_fit_is_cut_with_an_ellipsis() -> None:
    """The result is never wider than asked, also where a wide character sits on the edge."""
    assert fit("客服模型", 5, UTF8) == "客服…"
    assert fit("客服模型", 6, UTF8) == "客服…"
    assert fit("客服模型", 8, UTF8) == "客服模型"
    assert fit("abcdef", 4, Screen(encoding="ascii")) == "abc~"


@pytest.mark.parametrize(
    "text", ["a word or two and some more", "客服模型微调的一句很长的话\uff0c没有空格", "x" * 50]
)
def test_wrapping_loses_nothing(text: str) -> None:
    """Every line fits, and together they are the text."""
    lines = wrap(text, 12)
    assert all(width(line) <= 12 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("encoding", "sign"),
    [("utf-8", "¥"), ("latin-1", "¥"), ("gbk", "元"), ("ascii", "CNY "), ("no-such", "CNY ")],
)
def test_the_sign_of_money(encoding: str, sign: str) -> None:
    """¥ where it can be shown, else 元, else CNY."""
    assert Screen(encoding=encoding).yuan == sign


def test_a_table_lines_up_under_chinese() -> None:
    """Columns start at the same place in every row, counted in columns of the terminal."""
    columns = [Column("JOB"), Column("SUM", right=True)]
    lines = table(columns, [["客服", "1.00"], ["kefu-2", "100.00"]], UTF8)
    assert lines == ["JOB        SUM", "客服      1.00", "kefu-2  100.00"]


def test_a_table_that_is_too_wide_gives_up_optional_columns_first() -> None:
    """Then the elastic ones shrink; sums are never cut."""
    columns = [Column("JOB", elastic=True), Column("ID", optional=True), Column("SUM", right=True)]
    row = ["a-rather-long-name-of-a-job", "i-123456", "¥1,234.56"]
    narrow = table(columns, [row], Screen(columns=30))
    assert all(width(line) <= 30 for line in narrow)
    assert "i-123456" not in narrow[1]
    assert narrow[1].startswith("a-rather-long-name")
    assert narrow[1].endswith("¥1,234.56")
    assert "i-123456" in table(columns, [row], Screen(columns=60))[1]


def test_a_table_lines_up_where_characters_are_missing() -> None:
    """What comes out as a question mark is measured as one."""
    screen = Screen(encoding="ascii")
    lines = table([Column("JOB"), Column("SUM", right=True)], [["客服", "1"], ["ab", "2"]], screen)
    assert lines == ["JOB  SUM", "??     1", "ab     2"]


def test_labels_and_their_parts_fit() -> None:
    """Parts share a line while they fit; a long one is wrapped under the same column."""
    lines = labelled("label", ["one", "two", "x " * 40], UTF8)
    assert lines[0] == "  label         one   two"
    assert all(width(line) <= 80 for line in lines)
    assert lines[1].startswith(" " * 16 + "x")


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR, a dumb terminal and a pipe get plain text."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert screen_of(Terminal()).paint("x", "red") == "\x1b[31mx\x1b[0m"
    assert screen_of(io.StringIO()).paint("x", "red") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert screen_of(Terminal()).paint("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert screen_of(Terminal()).paint("x", "red") == "x"
