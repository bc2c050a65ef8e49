"""Reading files that grow: whole lines from where we were, and a log made safe to send."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ANCHOR_BYTES = 32
READ_BYTES = 1024 * 1024
BEHIND_BYTES = 512 * 1024
LINE_BYTES = 8 * 1024
LINE_CHARS = 2000
TAIL_BYTES = 64 * 1024
TAIL_LINE_CHARS = 500
LOG_HEAD_BYTES = 1024 * 1024
LOG_KEPT_BYTES = 64 * 1024 * 1024
LOG_FILE_BYTES = 256 * 1024 * 1024
PUNCH_HOLE = 0x03  # linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
LOG_RUN_BYTES = 64 * 1024 * 1024


class Tail:
    """The new bytes of a growing file, from `offset` on.

    A file that was replaced, or cut and written anew, is read from its start: known by its
    inode, by its length, or by the bytes before the offset being others than they were.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self.offset = 0
        self._path = path
        self._inode: int | None = None
        self._anchor = b""
        self._move_to(offset)

    def read(self, limit: int) -> bytes:
        """Up to `limit` new bytes; advances by as many."""
        data = self._peek(limit)
        self._advance(data)
        return data

    def read_lines(self, limit: int, *, final: bool = False) -> list[tuple[int, bytes]]:
        """The new whole lines within `limit` bytes, each with the offset at which it ends.

        With `final`, also a last one without its newline. A line longer than `limit` comes in
        pieces rather than never.
        """
        data = self._peek(limit)
        end = data.rfind(b"\n") + 1
        if final or (end == 0 and len(data) >= limit):
            end = len(data)
        lines = []
        for line in _split(data[:end]):
            self._advance(line)
            lines.append((self.offset, line))
        return lines

    def skip_to_last(self, count: int) -> int:
        """Leaves out all but the last `count` bytes; returns how many were left out."""
        try:
            size = self._path.stat().st_size
        except OSError:
            return 0
        skipped = size - count - self.offset
        if skipped <= 0:
            return 0
        self._move_to(size - count)
        return skipped

    def behind(self) -> int:
        """How many bytes are waiting; negative when the file was cut."""
        try:
            return self._path.stat().st_size - self.offset
        except OSError:
            return 0

    def _peek(self, limit: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not self._is_the_same(file.fileno(), status):
                    self.offset, self._anchor = 0, b""
                self._inode = status.st_ino
                return os.pread(file.fileno(), limit, self.offset)
        except OSError:
            return b""

    def _advance(self, data: bytes) -> None:
        self.offset += len(data)
        self._anchor = (self._anchor + data)[-ANCHOR_BYTES:]

    def _move_to(self, offset: int) -> None:
        self.offset, self._anchor = offset, b""
        try:
            with self._path.open("rb") as file:
                self._inode = os.fstat(file.fileno()).st_ino
                start = max(0, offset - ANCHOR_BYTES)
                self._anchor = os.pread(file.fileno(), offset - start, start)
        except OSError:
            return

    def _is_the_same(self, descriptor: int, status: os.stat_result) -> bool:
        if self._inode not in (None, status.st_ino) or status.st_size < self.offset:
            return False
        before = self.offset - len(self._anchor)
        return os.pread(descriptor, len(self._anchor), before) == self._anchor


@dataclass
class LogAllowance:
    """How much of the log may still be sent in this window."""

    lines: int = 50
    bytes: int = 200 * 1024


@dataclass
class LogTail:
    """The training's output, bounded in lines, bytes and line length; what is dropped is counted.

    Carriage returns are treated as a screen would: of what overwrites one line, the last stays.
    """

    path: Path
    offset: int
    allowance: LogAllowance = field(default_factory=LogAllowance)

    def __post_init__(self) -> None:
        self._tail = Tail(self.path, self.offset)
        self._cutter = LineCutter()
        self._run_bytes_left = LOG_RUN_BYTES
        self._dropped_lines = 0
        self._dropped_bytes = 0
        self._read: list[str] = []

    def take_read(self) -> list[str]:
        """All lines of the last poll, also those that were not sent; once."""
        read, self._read = self._read, []
        return read

    def next_window(self) -> None:
        """Fills the allowance up again."""
        self.allowance = LogAllowance()

    def poll(self, *, final: bool = False) -> dict[str, Any] | None:
        """A `log` message with the new lines that the allowance lets through, or None."""
        if self._tail.behind() > BEHIND_BYTES:
            self._dropped_bytes += self._tail.skip_to_last(BEHIND_BYTES // 2)
            self._cutter = LineCutter(resuming=True)
        lines = self._cutter.feed(self._tail.read(BEHIND_BYTES))
        if final:
            lines += self._cutter.rest()
        self._read = lines
        sent = self._within_allowance(lines)
        if not sent and not (final and self._dropped_lines):
            return None
        message = {
            "lines": sent,
            "dropped_lines": self._dropped_lines,
            "dropped_bytes": self._dropped_bytes,
            "offset": self._tail.offset,
        }
        self._dropped_lines = self._dropped_bytes = 0
        return message

    def _within_allowance(self, lines: list[str]) -> list[str]:
        """The newest lines that fit; the rest is counted as dropped."""
        sent: list[str] = []
        for line in reversed(lines):
            size = len(line.encode("utf-8"))
            if len(sent) >= self.allowance.lines or size > self.allowance.bytes:
                break
            if size > self._run_bytes_left:
                break
            self.allowance.bytes -= size
            self._run_bytes_left -= size
            sent.append(line)
        self.allowance.lines -= len(sent)
        self._dropped_lines += len(lines) - len(sent)
        return sent[::-1]


class LineCutter:
    """Cuts a stream of bytes into printable lines, whatever the bytes are, in bounded memory."""

    def __init__(self, *, resuming: bool = False) -> None:
        self._partial = b""
        self._cut_bytes = 0
        self._skip_first = resuming

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        pieces = data.split(b"\n")
        lines = []
        for piece in pieces[:-1]:
            self._extend(piece)
            line = self._finish()
            if not self._skip_first:
                lines.append(line)
            self._skip_first = False
        self._extend(pieces[-1])
        return lines + self._overwritten()

    def rest(self) -> list[str]:
        """What is left without a newline, at the end of the stream."""
        return [self._finish()] if self._partial else []

    def _extend(self, data: bytes) -> None:
        if b"\r" in data.rstrip(b"\r"):
            self._partial, self._cut_bytes = b"", 0
            data = data.rstrip(b"\r").rpartition(b"\r")[2] + (b"\r" if data[-1:] == b"\r" else b"")
        room = LINE_BYTES - len(self._partial)
        self._partial += data[:room]
        self._cut_bytes += max(0, len(data) - room)

    def _overwritten(self) -> list[str]:
        """A progress bar's latest state, which ends in a carriage return and no newline."""
        if not self._partial.endswith(b"\r"):
            return []
        line = self._finish()
        return [line] if line else []

    def _finish(self) -> str:
        text = printable(self._partial.rstrip(b"\r"), LINE_CHARS)
        if self._cut_bytes:
            text += f" … [{self._cut_bytes} bytes cut]"
        self._partial, self._cut_bytes = b"", 0
        return text


def shed_middle(path: Path) -> int:
    """Gives the disk back what a log of more than 256 MiB holds between its ends.

    Two gigabytes a minute would fill the disk that the checkpoint needs. The hole is punched
    (fallocate(2), Linux), so that the file keeps its length and nobody's place in it moves; the
    first MiB and the last 64 stay. Returns the bytes of the middle, 0 while the log is small or
    where the file system cannot do it.
    """
    try:
        with path.open("r+b") as file:
            length = file.seek(0, os.SEEK_END) - LOG_HEAD_BYTES - LOG_KEPT_BYTES
            if length <= LOG_FILE_BYTES or sys.platform != "linux":
                return 0
            fallocate = ctypes.CDLL(None, use_errno=True).fallocate
            offset_type = ctypes.c_int64
            fallocate.argtypes = (ctypes.c_int, ctypes.c_int, offset_type, offset_type)
            done = fallocate(file.fileno(), PUNCH_HOLE, LOG_HEAD_BYTES, length)
            return length if done == 0 else 0
    except OSError:
        return 0


def _split(data: bytes) -> list[bytes]:
    """Lines with their newline; unlike splitlines, a carriage return ends none."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]] + (
        [data.rpartition(b"\n")[2]] if data and not data.endswith(b"\n") else []
    )


def printable(data: bytes, longest: int) -> str:
    """Text that is safe to print and to send: UTF-8, no control characters, at most `longest`."""
    text = data.decode("utf-8", "replace")
    safe = "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text)
    return safe if len(safe) <= longest else f"{safe[:longest]} … [{len(safe) - longest} cut]"


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a log, made printable; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            data = os.pread(file.fileno(), TAIL_BYTES, start)
    except OSError:
        return []
    lines = data.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    shown = (line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines[-count:])
    return [printable(line, TAIL_LINE_CHARS) for line in shown]
