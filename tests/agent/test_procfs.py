from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.agent import procfs
from costguard.agent.procfs import Process
from tests.agent.harness import wait_until

if TYPE_CHECKING:
    import pytest


def row(pid: int, parent: int, session: int, state: str = "S") -> Process:
    """A process table's row."""
    return Process(pid, parent, session, state, 0.0, 0, "1")


def test_the_family_is_everything_below_and_the_whole_session() -> None:
    """Children of children, an orphan of the session, but no zombie and no stranger."""
    rows = [
        row(10, 1, 10),
        row(11, 10, 10),
        row(12, 11, 12),
        row(13, 1, 10),
        row(14, 10, 10, "Z"),
        row(20, 1, 20),
    ]
    table = {one.pid: one for one in rows}
    assert sorted(procfs.family(table, [10], 10)) == [10, 11, 12, 13]


def test_this_process_is_found_with_its_figures() -> None:
    """Parent, session, memory, and CPU time that grows."""
    before = procfs.find_process(os.getpid())
    assert before is not None
    assert before.parent == os.getppid()
    assert before.session == os.getsid(0)
    assert before.rss_bytes > 1 << 20
    wait_until(
        lambda: (procfs.find_process(os.getpid()) or before).cpu_s > before.cpu_s, "CPU time"
    )


def test_a_name_with_parentheses_is_no_trap() -> None:
    """proc(5): the second field may itself hold spaces and parentheses."""
    rename = "open('/proc/self/comm', 'w').write('a) R 1 (b'); input()"
    child = subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE)
    try:
        path = f"/proc/{child.pid}/comm"
        wait_until(lambda: ")" in Path(path).read_text(), "the new name")
        found = procfs.find_process(child.pid)
        assert found is not None
        assert found.parent == os.getpid()
    finally:
        child.communicate(b"\n")


def test_a_zombie_does_not_live() -> None:
    """It has ended, whoever has not yet looked."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: not procfs.alive(procfs.find_process(child.pid)), "its end")
    assert procfs.find_process(child.pid) is not None
    child.wait()
    assert procfs.find_process(child.pid) is None


def test_ps_times_are_read() -> None:
    """As macOS and the BSDs print them."""
    assert procfs._ps_seconds("0:01.50") == 1.5
    assert procfs._ps_seconds("1-02:03:04") == 93784.0


def test_ps_stands_in_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows from `ps`."""
    output = f"{os.getpid()} 1 {os.getpid()} Ss 2048 0:02.00 Mon Nov 23 10:00:00 2026\n"
    done = subprocess.CompletedProcess(procfs.PS, 0, output.encode(), b"")
    monkeypatch.setattr(procfs, "PROC", Path("/nowhere"))
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: done)
    found = procfs.find_process(os.getpid())
    assert found is not None
    assert (found.cpu_s, found.rss_bytes, found.state) == (2.0, 2048 * 1024, "S")
    assert found.started == "Mon Nov 23 10:00:00 2026"


def test_what_a_process_reads_and_writes_is_counted(tmp_path: Path) -> None:
    """Its own calls; of a process that is not there nothing is known."""
    before = procfs.io_bytes(os.getpid())
    assert before is not None
    (tmp_path / "file").write_bytes(b"x" * 1_000_000)
    assert (procfs.io_bytes(os.getpid()) or 0) >= before + 1_000_000
    assert procfs.io_bytes(1 << 30) is None
