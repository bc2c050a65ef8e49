"""The job's processes, their CPU time and memory, as /proc (or `ps` on macOS) shows them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROC = Path("/proc")
PS = ("ps", "-axo", "pid=,ppid=,pgid=,state=,rss=,time=,lstart=")
PS_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Process:
    """One row of the process table.

    The trainer leads a session of its own, so its pid is the session of all that belong to it
    (`ps` shows the process group instead, which differs only for job-control shells).
    `cpu_s` holds user and system time of the process and of the children it has waited for;
    `started` tells it from a later process with the same pid.
    """

    pid: int
    parent: int
    session: int
    state: str
    cpu_s: float
    rss_bytes: int
    started: str


def process_table() -> dict[int, Process]:
    """Every process that can be seen, by pid."""
    if (PROC / "self" / "stat").exists():
        pids = (entry.name for entry in os.scandir(PROC) if entry.name.isdigit())
        rows = (_read_proc(int(pid)) for pid in pids)
        return {row.pid: row for row in rows if row is not None}
    return {row.pid: row for row in _read_ps()}


def find_process(pid: int) -> Process | None:
    """The process with this pid, or None when there is none."""
    if (PROC / "self" / "stat").exists():
        return _read_proc(pid)
    return process_table().get(pid)


def io_bytes(pid: int) -> int | None:
    """What a process, and the children it has waited for, moved by read and write calls.

    proc(5), `rchar` and `wchar`: cached reads count too, because they are progress. Not seen are
    a socket's receive calls and files that are mapped into memory. None where it is hidden.
    """
    try:
        lines = (PROC / str(pid) / "io").read_bytes().split(b"\n")
        figures = dict(line.split(b": ") for line in lines if line)
        return int(figures[b"rchar"]) + int(figures[b"wchar"])
    except (OSError, ValueError, KeyError):
        return None


def alive(process: Process | None) -> bool:
    """Whether it still runs; a zombie does not."""
    return process is not None and process.state not in ("Z", "X")


def family(
    table: Mapping[int, Process], roots: Iterable[int], session: int | None
) -> dict[int, Process]:
    """The processes below `roots` (the roots included), and all of `session`; no zombies."""
    children: dict[int, list[int]] = {}
    for row in table.values():
        children.setdefault(row.parent, []).append(row.pid)
    found: dict[int, Process] = {}
    todo = list(roots)
    if session is not None:
        todo += [row.pid for row in table.values() if row.session == session]
    while todo:
        pid = todo.pop()
        if pid in table and pid not in found:
            found[pid] = table[pid]
            todo += children.get(pid, [])
    return {pid: row for pid, row in found.items() if alive(row)}


def _read_proc(pid: int) -> Process | None:
    try:
        line = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses: proc(5), field 2.
    fields = line[line.rfind(b")") + 2 :].split()
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0].decode("ascii"),
        cpu_s=sum(int(field) for field in fields[11:15]) / ticks_per_s,
        rss_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        started=fields[19].decode("ascii"),
    )


def _read_ps() -> list[Process]:
    try:
        done = subprocess.run(PS, capture_output=True, timeout=PS_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        fields = line.split(None, 6)
        if len(fields) == 7:
            pid, parent, session, state, rss_kib, cpu, started = fields
            rows.append(
                Process(
                    pid=int(pid),
                    parent=int(parent),
                    session=int(session) if session.isdigit() else -1,
                    state=state[0],
                    cpu_s=_ps_seconds(cpu),
                    rss_bytes=int(rss_kib) * 1024,
                    started=started.strip(),
                )
            )
    return rows


def _ps_seconds(text: str) -> float:
    """Seconds of a `ps` time such as `1-02:03:04` or `12:34.56`."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + int(days or 0) * 86400
