"""The training process: started in its own session, watched, signalled, and cleaned up after."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.agent import procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from costguard.agent.clock import Clock

ADOPTED_POLL_S = 0.2
KILL_PASSES = 3


@dataclass(frozen=True)
class Ended:
    """How the leader ended. Code and signal are None where nobody could see them."""

    code: int | None
    signal: int | None
    ended_at_ms: int
    ended_boot_ms: int
    detail: str = ""


@dataclass(frozen=True)
class Usage:
    """What the job's processes use now; `cpu_s` only grows, except where /proc lost a child.

    `io_bytes` is None where one of them does not show it.
    """

    processes: int
    cpu_s: float
    rss_bytes: int
    io_bytes: int | None


class Training:
    """One training, at most once.

    The leader gets its own session, so that its group can be killed without the agent, and so
    that SIGTERM can go to it alone. A thread blocks until it ends. It is left a zombie until the
    rest of its group is killed: as long as it is one, its number cannot belong to anyone else.

    `sweep_below`: a pid below which every process is the job's, other than the leader's session:
    the agent's own, where it is the reaper of what the training leaves behind; None elsewhere.
    """

    def __init__(self, clock: Clock, wake: Callable[[], None], sweep_below: int | None) -> None:
        self.pid: int | None = None
        self.started = ""
        self.not_ours: set[int] = set()
        self._clock = clock
        self._wake = wake
        self._sweep_below = sweep_below
        self._child = False
        self._seen_end: Ended | None = None
        self._collected = False
        self._reaped_cpu_s = 0.0

    @property
    def running(self) -> bool:
        """Whether the leader was started or adopted and its end has not been collected."""
        return self.pid is not None and not self._collected

    def start(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, umask: int
    ) -> None:
        """Starts the leader; raises OSError where the system refuses."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=umask,
            )
        process.returncode = 0  # this class reaps it, with its resource usage
        self._child = True
        self._watch(process.pid)

    def adopt(self, pid: int, started: str) -> bool:
        """Takes over a training that an agent before this one started; False if it has ended."""
        process = procfs.find_process(pid)
        if process is None or not procfs.alive(process) or process.started != started:
            return False
        self._watch(pid)
        return True

    def _watch(self, pid: int) -> None:
        process = procfs.find_process(pid)
        self.pid = pid
        self.started = process.started if process is not None else ""
        target = self._wait_for_child if self._child else self._wait_for_adopted
        threading.Thread(target=target, args=(pid,), name="wait", daemon=True).start()

    def terminate(self) -> None:
        """Sends SIGTERM to the leader alone: its workers must live while it saves."""
        if self.running and self.pid is not None and self._seen_end is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL to the whole group, and to what has left it but is still the job's."""
        if self.pid is None or self._collected:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for _ in range(KILL_PASSES):
            rest = self._members()
            if not rest:
                return
            for pid in rest:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def collect(self) -> Ended | None:
        """The leader's end, once, when it has come; what it left running is killed first."""
        ended = self._seen_end
        if ended is None or self._collected or self.pid is None:
            return None
        self.kill()
        self._collected = True
        if self._child:
            self._reap(self.pid)
        return ended

    def reap_orphans(self) -> None:
        """Collects children that were left to this process, and counts their CPU time."""
        if self._sweep_below is None or not hasattr(os, "waitid"):
            return
        while True:
            try:
                seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if seen is None or seen.si_pid in self.not_ours:
                return
            if self._child and seen.si_pid == self.pid and not self._collected:
                return
            self._reap(seen.si_pid)

    def usage(self) -> Usage:
        """What the job's processes use at this moment."""
        members = self._members().values()
        moved = [procfs.io_bytes(row.pid) for row in members]
        known = [count for count in moved if count is not None]
        return Usage(
            processes=len(members),
            cpu_s=self._reaped_cpu_s + sum(row.cpu_s for row in members),
            rss_bytes=sum(row.rss_bytes for row in members),
            io_bytes=sum(known) if len(known) == len(moved) else None,
        )

    def _members(self) -> dict[int, procfs.Process]:
        if self.pid is None:
            return {}
        table = procfs.process_table()
        roots = [self.pid] if not self._collected else []
        if self._sweep_below is not None:
            others = self.not_ours | {self._sweep_below}
            roots += [
                row.pid
                for row in table.values()
                if row.parent == self._sweep_below and row.pid not in others
            ]
        found = procfs.family(table, roots, self.pid)
        return {pid: row for pid, row in found.items() if pid not in self.not_ours}

    def _reap(self, pid: int) -> None:
        with contextlib.suppress(ChildProcessError):
            _, _, usage = os.wait4(pid, 0)
            self._reaped_cpu_s += usage.ru_utime + usage.ru_stime

    def _wait_for_child(self, pid: int) -> None:
        if hasattr(os, "waitid"):
            seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert seen is not None
            exited = seen.si_code == os.CLD_EXITED
            code, number = (seen.si_status, None) if exited else (None, seen.si_status)
        else:
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            code, number = (code, None) if code >= 0 else (None, -code)
        self._has_ended(code, number, "")

    def _wait_for_adopted(self, pid: int) -> None:
        while True:
            process = procfs.find_process(pid)
            if not procfs.alive(process) or process is None or process.started != self.started:
                break
            time.sleep(ADOPTED_POLL_S)
        self._has_ended(None, None, "ended under an agent that had not started it: code unseen")

    def _has_ended(self, code: int | None, number: int | None, detail: str) -> None:
        self._seen_end = Ended(code, number, self._clock.utc_ms(), self._clock.boot_ms(), detail)
        self._wake()
