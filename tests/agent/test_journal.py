from __future__ import annotations

import errno
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent import journal as journal_module
from costguard.agent.journal import Journal, encode
from tests.agent.harness import FakeClock, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """Opens the journal of this test, as often as called; closes what is still open."""
    opened: list[Journal] = []

    def make() -> Journal:
        opened.append(Journal(tmp_path / "journal.jsonl", FakeClock(), lambda: None))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def numbers(journal: Journal, after: int = 0) -> list[int]:
    """The numbers of everything that can be sent."""
    found: list[int] = []
    while True:
        data, last = journal.read_after(after, 200)
        if not data:
            return found
        found += [json.loads(line)["seq"] for line in data.splitlines()]
        after = last


def fill(journal: Journal, count: int, **fields: Any) -> None:
    """Appends records and waits until they are written."""
    for _ in range(count):
        journal.append("note", fields)
    assert journal.flush(wait_s=5)


def test_numbering_goes_on_after_a_restart(open_journal: Callable[[], Journal]) -> None:
    """A second opening knows the last number and sends the old records too."""
    first = open_journal()
    fill(first, 3)
    first.close()
    second = open_journal()
    fill(second, 2)
    assert numbers(second) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "torn", [b'{"seq":4,"t":"no', b'{"seq":4,"t":"note","x', b"\0" * 50, b'{"seq":4,"t":"x",}\n']
)
def test_a_torn_last_line_is_cut_off(
    open_journal: Callable[[], Journal], tmp_path: Path, torn: bytes
) -> None:
    """What a crash left of a record vanishes, and its number is given anew."""
    first = open_journal()
    fill(first, 3)
    first.close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    second = open_journal()
    fill(second, 1, whole=True)
    second.close()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]
    assert lines[3]["whole"] is True


def test_nothing_is_sent_before_it_is_synced(
    open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk still works on a record, a reader does not see it, and nobody waits."""
    journal = open_journal()
    fill(journal, 1)
    synced, may_end = threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        synced.set()
        assert may_end.wait(10)

    monkeypatch.setattr(os, "fsync", slow)
    journal.append("note", {})
    journal.flush()
    assert synced.wait(5)
    assert numbers(journal) == [1]
    assert numbers(journal, after=1) == []
    may_end.set()
    wait_until(lambda: numbers(journal) == [1, 2], "the record")


def test_one_tick_is_one_sync(
    open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty records that are flushed together cost one sync."""
    journal = open_journal()
    syncs: list[int] = []
    real = os.fsync

    def counted(descriptor: int) -> None:
        syncs.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    fill(journal, 20)
    assert len(syncs) == 1


def test_a_full_disk_is_survived_in_memory(
    open_journal: Callable[[], Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are sent all the same, `ok` says so, and they are written once there is room."""
    journal = open_journal()
    fill(journal, 2)
    real = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if len(data) > 5:
            return real(descriptor, bytes(data)[:5], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(journal_module, "RETRY_S", 0.01)
    fill(journal, 2)
    assert not journal.ok
    assert numbers(journal) == [1, 2, 3, 4]
    monkeypatch.setattr(os, "pwrite", real)
    wait_until(lambda: journal.ok, "the disk's recovery")
    fill(journal, 1)
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_full_disk_does_not_fill_the_memory(
    open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs go first, and are counted; an exit stays."""
    journal = open_journal()

    def full(_descriptor: int, _data: Any, _offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(journal_module, "UNSAVED_BYTES", 2000)
    journal.append("exit", {"code": 0})
    for _ in range(50):
        journal.append("log", {"lines": ["x" * 100]})
    journal.flush(wait_s=5)
    wait_until(lambda: journal.dropped > 0, "the shedding")
    data, _ = journal.read_after(0, 1_000_000)
    kinds = [json.loads(line)["t"] for line in data.splitlines()]
    assert kinds[0] == "exit"
    assert len(data) <= 2000
    assert journal.dropped == 50 - kinds.count("log")


def test_what_left_the_memory_is_read_from_the_file(
    open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader far behind gets every record once, across the index and the memory's border."""
    monkeypatch.setattr(journal_module, "INDEX_EVERY_BYTES", 1000)
    monkeypatch.setattr(journal_module, "RECENT_BYTES", 3000)
    journal = open_journal()
    for _ in range(30):
        fill(journal, 10, text="x" * 20)
    assert numbers(journal) == list(range(1, 301))
    assert numbers(journal, after=123) == list(range(124, 301))
    journal.forget(300)
    assert numbers(journal, after=290) == list(range(291, 301))


def test_rubbish_inside_is_stepped_over(
    open_journal: Callable[[], Journal], tmp_path: Path
) -> None:
    """A damaged line in the middle costs that line only."""
    first = open_journal()
    fill(first, 3)
    first.close()
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\xff\xfe rubbish \0\n"
    path.write_bytes(b"".join(lines))
    assert numbers(open_journal()) == [1, 3]


def test_a_reader_that_knows_more_gets_the_records_again(
    open_journal: Callable[[], Journal],
) -> None:
    """After records were lost with the memory, numbers go on above what the reader has."""
    journal = open_journal()
    fill(journal, 2, text="kept")
    journal.repeat_after(2, 10)
    assert journal.flush(wait_s=5)
    data, last = journal.read_after(10, 1000)
    assert last == 11
    assert json.loads(data)["text"] == "kept"


def test_lines_are_json_whatever_a_file_is_called() -> None:
    """A name that is no UTF-8 is carried as JSON can, and comes back the same."""
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert json.loads(encode({"name": name, "zh": "线\u2028"})) == {"name": name, "zh": "线\u2028"}


def test_nan_cannot_get_into_the_journal() -> None:
    """Bare NaN is no JSON: it is refused where it would be written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"loss": float("nan")})
