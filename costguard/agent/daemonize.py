"""Starting the agent so that it outlives the SSH session, once per directory."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from costguard.agent.endpoint import connect

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK = "agent.lock"
LOG = "agent.log"
ANSWER_TIMEOUT_S = 5.0
RETIRE_TIMEOUT_S = 10.0
POLL_S = 0.05
ISOLATED = ("-I", "-S", "-X", "utf8")
# Started anew five times in a row at most; one that has lasted ten minutes begins a new row.
GUARD = """
import os, sys, time
began, key = time.monotonic(), "COSTGUARD_AGENT_RESTARTS"
_, status = os.waitpid(int(sys.argv[1]), 0)
before = os.environ.get(key, "0") if time.monotonic() - began < 600 else "0"
if os.WIFSIGNALED(status) and os.path.exists("agent.pyz") and before in "01234":
    time.sleep(float(sys.argv[2]))
    os.environ[key] = str(int(before) + 1)
    agent = [sys.executable, "-I", "-S", "-X", "utf8", "agent.pyz", "start", "--dir=."]
    os.execv(sys.executable, agent)
"""
INHERITED_MAX = 4096


def take_lock() -> int | None:
    """A descriptor that holds this directory's lock for as long as it is open, or None.

    The lock goes with the process, so one that was killed leaves none behind.
    """
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return descriptor


def take_lock_within(timeout_s: float) -> int | None:
    """The lock, waited for if need be; None when it is still held after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        descriptor = take_lock()
        if descriptor is not None or time.monotonic() >= deadline:
            return descriptor
        time.sleep(POLL_S)


def ask_agent(kind: str) -> dict[str, Any] | None:
    """The answer of the agent that serves this directory, or None when it gives none."""
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError), connect() as sock:
            sock.settimeout(ANSWER_TIMEOUT_S)
            sock.sendall(json.dumps({"t": kind}).encode() + b"\n")
            with sock.makefile("rb") as answers:
                answer = json.loads(answers.readline())
                return answer if isinstance(answer, dict) else None
        time.sleep(POLL_S)
    return None


def detach(
    serve: Callable[[Callable[[dict[str, Any]], None]], None], restart_s: float
) -> dict[str, Any]:
    """Runs `serve` in a process of its own, and returns the line it reports with.

    A new session and two forks: no terminal, no hang-up, no parent that would have to wait for
    it. Standard output goes to a file, because an SSH channel stays open for as long as
    anybody holds its end. Between the two stands a guardian, which starts the agent of this
    directory anew if a signal ends it: some platforms' gateways kill what runs in the background,
    and a daemon that sleeps would not see it.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        agent = os.fork()
        if agent == 0:
            _become_daemon(serve, write_end)
        _stand_guard(agent, restart_s)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end, "rb") as report:
        line = report.readline()
    if not line:
        return {"error": "the agent ended before it could serve; see agent.log"}
    answer: dict[str, Any] = json.loads(line)
    return answer


def _stand_guard(agent: int, restart_s: float) -> None:
    """Becomes the guardian: a bare interpreter, which holds nothing but a wait.

    What was open is closed, the directory's lock among it: that must go with the agent.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        os.closerange(3, INHERITED_MAX)
        guard = [sys.executable, *ISOLATED, "-c", GUARD, str(agent), str(restart_s)]
        os.execv(sys.executable, guard)  # noqa: S606  without a shell, as it should be
    finally:
        os._exit(1)


def _become_daemon(
    serve: Callable[[Callable[[dict[str, Any]], None]], None], report_end: int
) -> None:
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(null)
        os.close(log)

        def report(line: dict[str, Any]) -> None:
            os.write(report_end, json.dumps(line).encode() + b"\n")
            os.close(report_end)

        serve(report)
        status = 0
    finally:
        os._exit(status)


def give_memory_back() -> None:
    """Returns what compiling our modules took: half of the agent's memory, where glibc is."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
