"""Which processes belong to an instance, and ending every one of them, and no other.

A process belongs to an instance if its environment bears exactly the instance's marker, or if it
descends from one that does (the instance's own process does, and adopts orphans), and if it runs
under our user id.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "LOCALCLOUD_INSTANCE"
RESCAN_S = 0.005
IS_LINUX = sys.platform.startswith("linux")
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A living process of this user. `instance` is what its environment's marker says."""

    pid: int
    parent_pid: int
    instance: str | None


def alive() -> list[Process]:
    """Every process of this user that is not a zombie."""
    return list(_from_proc() if IS_LINUX else parse_ps(_ps_output(), os.getuid()))


def of_instance(instance_id: str) -> set[int]:
    """Process ids of an instance: bearers of its marker, and all their descendants."""
    children: dict[int, list[int]] = {}
    waiting = []
    for process in alive():
        children.setdefault(process.parent_pid, []).append(process.pid)
        if process.instance == instance_id:
            waiting.append(process.pid)
    found: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def kill_instance(
    instance_id: str,
    root_pid: int | None = None,
    *,
    timeout_s: float,
    keep_root: bool = False,
) -> set[int]:
    """End everything the instance runs and return what still lives at the timeout: empty if done.

    `root_pid` is the instance's own process. It is stopped first, so that it starts nothing new,
    and killed last, because as long as it lives the orphans of the others become its children,
    also those whose environment was cleared. `keep_root` leaves it alone, for its own use.
    """
    if root_pid is not None and not keep_root:
        _signal(instance_id, root_pid, signal.SIGSTOP)
    spared = set() if root_pid is None else {root_pid}
    deadline = time.monotonic() + timeout_s
    while remaining := of_instance(instance_id) - spared:
        for pid in remaining:
            _signal(instance_id, pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return remaining
        time.sleep(RESCAN_S)
    if root_pid is None or keep_root:
        return set()
    _signal(instance_id, root_pid, signal.SIGKILL)
    left_s = max(deadline - time.monotonic(), RESCAN_S)
    return kill_instance(instance_id, None, timeout_s=left_s)


def command_of(pid: int) -> str:
    """The command line of a process, for people; empty if it is gone or cannot be read."""
    if not IS_LINUX:
        return ""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def parse_ps(output: str, uid: int) -> Iterator[Process]:
    """Processes from `ps -Axww -E -o pid=,ppid=,uid=,state=,command=`, as macOS prints them."""
    for line in output.splitlines():
        fields = line.split(None, 4)
        if len(fields) < 5 or int(fields[2]) != uid or fields[3].startswith("Z"):
            continue
        marks = [word for word in fields[4].split() if word.startswith(f"{MARKER}=")]
        instance = marks[-1].partition("=")[2] if marks else None
        yield Process(int(fields[0]), int(fields[1]), instance)


def _ps_output() -> str:
    command = ["/bin/ps", "-Axww", "-E", "-o", "pid=,ppid=,uid=,state=,command="]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _from_proc() -> Iterator[Process]:
    for entry in os.listdir(PROC):  # noqa: PTH208 - names are enough, and this runs often
        if entry.isdigit():
            process = _read_proc(int(entry))
            if process is not None:
                yield process


def _read_proc(pid: int) -> Process | None:
    """The process with this id, or None if it is gone, a zombie or another user's."""
    folder = f"/proc/{pid}"
    try:
        if os.stat(folder).st_uid != os.getuid():  # noqa: PTH116 - this runs often
            return None
        with open(f"{folder}/stat", "rb") as file:  # noqa: PTH123
            # The name in parentheses may hold anything, also parentheses and spaces.
            state, parent_pid = file.read().rpartition(b")")[2].split()[:2]
        with open(f"{folder}/environ", "rb") as file:  # noqa: PTH123
            environment = file.read().split(b"\0")
    except OSError:
        return None
    if state in (b"Z", b"X"):
        return None
    prefix = f"{MARKER}=".encode()
    marks = [entry for entry in environment if entry.startswith(prefix)]
    instance = marks[0][len(prefix) :].decode(errors="replace") if marks else None
    return Process(pid, int(parent_pid), instance)


def _belongs(instance_id: str, pid: int) -> bool:
    """Whether the process or one of its ancestors bears the marker, asked about it alone."""
    if not IS_LINUX:
        return pid in of_instance(instance_id)
    process = _read_proc(pid)
    while process is not None and process.instance != instance_id:
        process = _read_proc(process.parent_pid)
    return process is not None


def _signal(instance_id: str, pid: int, number: signal.Signals) -> None:
    """Signal the process if it (still) belongs to the instance.

    Where the kernel offers it, the process is pinned by a descriptor before it is checked, so that
    a process id that was given to somebody else in between is never signalled.
    """
    with suppress(ProcessLookupError):
        if not (IS_LINUX and hasattr(os, "pidfd_open")):
            if _belongs(instance_id, pid):
                os.kill(pid, number)
            return
        descriptor = os.pidfd_open(pid)
        try:
            if _belongs(instance_id, pid):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
