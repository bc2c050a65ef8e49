from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from costguard.agent import tail
from costguard.agent.tail import (
    LINE_CHARS,
    LineCutter,
    LogTail,
    Tail,
    last_lines,
    printable,
    shed_middle,
)

MIB = 1024 * 1024

if TYPE_CHECKING:
    from pathlib import Path


def texts(lines: list[tuple[int, bytes]]) -> list[bytes]:
    """Lines without their offsets."""
    return [line for _, line in lines]


def test_only_whole_lines_are_read(tmp_path: Path) -> None:
    """A line that is still being written waits, and is then read once."""
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    tail = Tail(path, 0)
    assert tail.read_lines(1000) == [(4, b"one\n")]
    assert tail.read_lines(1000) == []
    path.write_bytes(b"one\ntwo\n")
    assert texts(tail.read_lines(1000)) == [b"two\n"]


def test_the_last_line_needs_no_newline_at_the_end(tmp_path: Path) -> None:
    """With `final`, what is left counts."""
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    assert texts(Tail(path, 0).read_lines(1000, final=True)) == [b"one\n", b"tw"]


def test_a_file_written_anew_is_read_from_its_start(tmp_path: Path) -> None:
    """Cut and grown beyond where we were, in the same inode: the bytes before us tell."""
    path = tmp_path / "log"
    path.write_bytes(b"first run, line one\n")
    tail = Tail(path, 0)
    tail.read_lines(1000)
    path.write_bytes(b"second run, which writes a longer line\nand more\n")
    lines = texts(tail.read_lines(1000))
    assert lines == [b"second run, which writes a longer line\n", b"and more\n"]


def test_a_replaced_file_is_read_from_its_start(tmp_path: Path) -> None:
    """Another inode under the same name is another file, even with the same beginning."""
    path = tmp_path / "log"
    path.write_bytes(b"same\n")
    tail = Tail(path, 0)
    tail.read_lines(1000)
    (tmp_path / "new").write_bytes(b"same\nmore\n")
    (tmp_path / "new").rename(path)
    assert texts(tail.read_lines(1000)) == [b"same\n", b"more\n"]


def test_an_offset_skips_what_was_there_before(tmp_path: Path) -> None:
    """A run that appends to an older log is read from its own first line."""
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    tail = Tail(path, 4)
    path.write_bytes(b"old\nnew\n")
    assert texts(tail.read_lines(1000)) == [b"new\n"]


def test_a_line_without_end_does_not_stop_the_reading(tmp_path: Path) -> None:
    """Longer than the limit, it comes in pieces."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 25 + b"\nafter\n")
    tail = Tail(path, 0)
    lines = [line for _ in range(4) for line in texts(tail.read_lines(10))]
    assert b"".join(lines) == b"x" * 25 + b"\nafter\n"


def test_progress_bars_show_their_last_state() -> None:
    """Of what a carriage return overwrites, only the last remains."""
    cutter = LineCutter()
    assert cutter.feed(b"10%\r20%\r") == ["20%"]
    assert cutter.feed(b"30%\r40%") == []
    assert cutter.feed(b" done\nnext\r\n") == ["40% done", "next"]


def test_binary_rubbish_becomes_printable() -> None:
    """No byte makes a line that a terminal would obey."""
    text = printable(bytes(range(256)), LINE_CHARS)
    assert text.isprintable() or "\t" in text
    assert "\x1b" not in text
    assert printable("线🙂".encode(), 10) == "线🙂"


def test_a_line_of_ten_mebibytes_is_cut() -> None:
    """Its beginning is kept, its length is told, and memory stays small."""
    cutter = LineCutter()
    for _ in range(10):
        assert cutter.feed(b"y" * (1 << 20)) == []
    (line,) = cutter.feed(b"\n")
    assert len(line) < LINE_CHARS + 100
    assert line.startswith("yyy")
    assert "bytes cut" in line


def test_the_allowance_keeps_the_newest_lines_and_counts_the_rest(tmp_path: Path) -> None:
    """Fifty lines a window; the next window sends again."""
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(120)))
    log = LogTail(path, 0)
    message = log.poll()
    assert message is not None
    assert message["lines"] == [f"line {number}" for number in range(70, 120)]
    assert message["dropped_lines"] == 70
    with path.open("a") as file:
        file.write("late\n")
    assert log.poll() is None
    log.next_window()
    with path.open("a") as file:
        file.write("later\n")
    message = log.poll()
    assert message is not None
    assert message["lines"] == ["later"]
    assert message["dropped_lines"] == 1


def test_a_log_far_ahead_is_skipped_and_counted(tmp_path: Path) -> None:
    """Of many megabytes at once only the end is looked at; what was left out is told."""
    path = tmp_path / "log"
    path.write_bytes(b"z" * 99 + b"\n")
    log = LogTail(path, 0)
    with path.open("ab") as file:
        for _ in range(40):
            file.write((b"z" * 99 + b"\n") * 1000)
        file.write(b"the end\n")
    message = log.poll()
    assert message is not None
    assert message["lines"][-1] == "the end"
    assert message["dropped_bytes"] > 3_000_000
    assert message["offset"] == path.stat().st_size


def test_the_end_of_a_log_is_short_and_printable(tmp_path: Path) -> None:
    """Forty lines for an exit, each cut."""
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%d\x1b[31m\n" % number for number in range(100)) + b"w" * 9000)
    lines = last_lines(path, 40)
    assert len(lines) == 40
    assert lines[0] == "61\ufffd[31m"
    assert len(lines[-1]) < 600
    assert last_lines(tmp_path / "nothing", 40) == []


def test_two_gigabytes_in_a_minute_are_stood(tmp_path: Path) -> None:
    """The same rate without writing it all: each second a hole of 34 MiB and a last line.

    What is read stays within half a mebibyte a second, what is sent within 50 lines a window,
    and every byte is accounted for: sent, dropped, or known to be left out.
    """
    path = tmp_path / "log"
    path.touch()
    log = LogTail(path, 0)
    sent: list[str] = []
    dropped = 0
    for second in range(60):
        with path.open("r+b") as file:
            file.seek(34 * MIB, os.SEEK_END)
            file.write(b"\nsecond %d\n" % second)
        message = log.poll()
        assert message is not None
        sent += message["lines"]
        dropped += message["dropped_bytes"]
        assert message["offset"] == path.stat().st_size
        log.next_window()
    assert [line for line in sent if line.startswith("second")] == [
        f"second {second}" for second in range(60)
    ]
    assert dropped > 60 * 33 * MIB
    assert path.stat().st_size > 2_000_000_000


def test_a_huge_log_gives_its_middle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length and its ends stay, so that nobody's place moves; the disk gets the rest."""
    monkeypatch.setattr(tail, "LOG_FILE_BYTES", 4 * MIB)
    monkeypatch.setattr(tail, "LOG_KEPT_BYTES", MIB)
    path = tmp_path / "log"
    path.write_bytes(b"head" + b"m" * 2 * MIB)
    assert shed_middle(path) == 0
    path.write_bytes(b"head" + b"m" * 9 * MIB + b"tail")
    size, blocks = path.stat().st_size, path.stat().st_blocks
    given = shed_middle(path)
    if not given:
        pytest.skip("this file system punches no holes")
    assert given > 6 * MIB
    assert path.stat().st_size == size
    assert path.stat().st_blocks < blocks // 2
    content = path.read_bytes()
    assert (content[:5], content[-5:]) == (b"headm", b"mtail")
    assert shed_middle(tmp_path / "nothing") == 0
