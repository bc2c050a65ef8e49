"""The numbered, fsynced journal: the truth of a run, one JSON record a line.

A thread of its own writes and syncs, so that a slow or hung disk holds up neither the
supervisor nor the dead man's switch. A record goes upward only once it is on the disk, or once
the disk has refused it (then `ok` is False, the record stays in memory, and writing is tried
again every second).
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import os
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from costguard.agent.clock import Clock

HEAD = re.compile(rb'\{"seq":(\d+),"t":"([a-z_]+)"')
INDEX_EVERY_BYTES = 64 * 1024
RECENT_BYTES = 256 * 1024
UNSAVED_BYTES = 4 * 1024 * 1024
RETRY_S = 1.0
MAY_BE_DROPPED = frozenset({"log", "gpu"})


def encode(message: Mapping[str, Any]) -> bytes:
    """One JSON line. Refuses NaN; a lone surrogate from a file name becomes its JSON escape."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


class Journal:
    """Appends records, numbers them, and reads them back in order.

    `on_written` is called, from the writing thread, whenever more records may be sent.
    """

    def __init__(self, path: Path, clock: Clock, on_written: Callable[[], None]) -> None:
        self.ok = True
        self.dropped = 0
        self._path = path
        self._clock = clock
        self._on_written = on_written
        self._changed = threading.Condition()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._unsaved: deque[tuple[int, bytes]] = deque()
        self._recent: deque[tuple[int, bytes]] = deque()
        self._recent_bytes = 0
        self._closing = False
        self._flush_wanted = False
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._index: list[tuple[int, int]] = []
        self._good_end = 0
        self.last_seq = 0
        self._index_records()
        self.sendable_seq = self.last_seq
        self._writer = threading.Thread(target=self._write_for_ever, name="journal", daemon=True)
        self._writer.start()

    def append(self, kind: str, fields: Mapping[str, Any]) -> int:
        """Queues one record and returns its number; flush() sends it on its way."""
        with self._changed:
            seq = self.last_seq + 1
            record = {
                "seq": seq,
                "t": kind,
                "at_ms": self._clock.utc_ms(),
                "boot_ms": self._clock.boot_ms(),
                **fields,
            }
            self._queue.append((seq, encode(record)))
            self.last_seq = seq
            return seq

    def flush(self, wait_s: float = 0.0) -> bool:
        """Has everything queued written in one sync; with `wait_s`, waits that long for it.

        True when every record so far may be sent.
        """
        with self._changed:
            if self._queue:
                self._flush_wanted = True
                self._changed.notify_all()
            if wait_s > 0:
                self._changed.wait_for(lambda: self.sendable_seq >= self.last_seq, wait_s)
            return self.sendable_seq >= self.last_seq

    def read_after(self, seq: int, max_bytes: int) -> tuple[bytes, int]:
        """Whole lines with numbers above `seq`, about `max_bytes` of them, and the last number.

        Returns `(b"", seq)` when there is nothing to send yet.
        """
        with self._changed:
            if seq >= self.sendable_seq:
                return b"", seq
            first = next(itertools.chain(self._recent, self._unsaved), None)
            held = first is not None and first[0] <= seq + 1
            older = iter(self._recent) if held else self._lines_from(seq)
            lines = itertools.chain(older, self._unsaved)
            return _take(lines, seq, self.sendable_seq, max_bytes)

    def repeat_after(self, first_seq: int, after: int) -> None:
        """Repeats the records from `first_seq` on under numbers above `after`.

        For a reader that knows higher numbers than we do: an agent before this one could not
        write its last records to the disk, and was lost with them.
        """
        self.flush(wait_s=RETRY_S)
        data, _ = self.read_after(first_seq - 1, UNSAVED_BYTES)
        self.last_seq = max(self.last_seq, after)
        for line in data.splitlines():
            fields = json.loads(line)
            del fields["seq"]
            self.append(fields.pop("t"), fields)

    def forget(self, seq: int) -> None:
        """Lets go of the memory's copy of the records up to `seq`; the file keeps them."""
        with self._changed:
            while self._recent and self._recent[0][0] <= seq:
                self._recent_bytes -= len(self._recent.popleft()[1])

    def records(self) -> Iterator[tuple[str, bytes]]:
        """The kind and line of every record on the disk, oldest first."""
        for _, kind, line in self._scan(0):
            yield kind, line

    def close(self) -> None:
        """Writes what is queued and ends the thread; gives a hung disk two seconds."""
        self.flush()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join(2.0)
        if not self._writer.is_alive():
            self._file.close()

    def _index_records(self) -> None:
        """Reads the file once; cuts what a crash or a power loss left of its last record."""
        self._good_end = self._file.seek(0, os.SEEK_END)
        good_end, last_offset, last_line, before_last = 0, 0, b"", 0
        for offset, _, line in self._scan(0):
            before_last, self.last_seq = self.last_seq, _number(line)
            last_offset, last_line, good_end = offset, line, offset + len(line)
            self._note_offset(self.last_seq, offset)
        if last_line and not _is_json(last_line):
            good_end, self.last_seq = last_offset, before_last
        self._good_end = good_end
        self._file.truncate(good_end)

    def _note_offset(self, seq: int, offset: int) -> None:
        if not self._index or offset >= self._index[-1][1] + INDEX_EVERY_BYTES:
            self._index.append((seq, offset))

    def _scan(self, offset: int) -> Iterator[tuple[int, str, bytes]]:
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                head = HEAD.match(line)
                if head is not None and line.endswith(b"\n"):
                    yield offset, head.group(2).decode("ascii"), line
                offset += len(line)
                if offset >= self._good_end:
                    return

    def _lines_from(self, seq: int) -> Iterator[tuple[int, bytes]]:
        at = bisect.bisect_right(self._index, (seq + 1, 1 << 62)) - 1
        for _, _, line in self._scan(self._index[at][1] if at >= 0 else 0):
            yield _number(line), line

    def _write_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._flush_wanted,
                    RETRY_S if self._unsaved else None,
                )
                self._flush_wanted = False
                self._unsaved.extend(self._queue)
                self._queue.clear()
                batch = list(self._unsaved)
                closing = self._closing
            if batch:
                written = self._write(b"".join(line for _, line in batch))
                with self._changed:
                    self._settle(batch, written=written)
                    self._changed.notify_all()
                self._on_written()
            if closing:
                return

    def _write(self, data: bytes) -> bool:
        """Whether `data` is on the disk now; what was half written is cut off again."""
        offset, rest = self._good_end, memoryview(data)
        try:
            while rest:
                count = os.pwrite(self._file.fileno(), rest, offset)
                offset, rest = offset + count, rest[count:]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._good_end)
            return False
        return True

    def _settle(self, batch: list[tuple[int, bytes]], *, written: bool) -> None:
        self.ok = written
        self.sendable_seq = max(self.sendable_seq, batch[-1][0])
        if not written:
            self._shed()
            return
        for seq, line in batch:
            self._note_offset(seq, self._good_end)
            self._good_end += len(line)
            self._recent.append((seq, line))
            self._recent_bytes += len(line)
        while self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft()[1])
        self._unsaved.clear()

    def _shed(self) -> None:
        """Keeps the memory bounded while the disk refuses: logs and GPU windows go first."""
        size = sum(len(line) for _, line in self._unsaved)
        if size <= UNSAVED_BYTES:
            return
        kept: deque[tuple[int, bytes]] = deque()
        for seq, line in self._unsaved:
            head = HEAD.match(line)
            if size > UNSAVED_BYTES // 2 and head and head.group(2).decode() in MAY_BE_DROPPED:
                size -= len(line)
                self.dropped += 1
            else:
                kept.append((seq, line))
        self._unsaved = kept


def _take(
    lines: Iterator[tuple[int, bytes]], after: int, upto: int, max_bytes: int
) -> tuple[bytes, int]:
    taken = bytearray()
    for seq, line in lines:
        if seq <= after:
            continue
        if seq > upto or (taken and len(taken) + len(line) > max_bytes):
            break
        taken += line
        after = seq
    return bytes(taken), after


def _number(line: bytes) -> int:
    head = HEAD.match(line)
    return int(head.group(1)) if head else 0


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
