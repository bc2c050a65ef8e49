from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from costguard.localcloud import processes
from tests.localcloud.world import is_alive, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLEEP = [sys.executable, "-S", "-c", "print('up', flush=True); import time; time.sleep(600)"]
# Forks twice with a new session in between, and tells its last child's id.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""
CLEARER = """
import subprocess, time
print(subprocess.Popen(['/bin/sleep', '600'], env={}).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def spawn() -> Iterator[Callable[..., tuple[int, str]]]:
    """Start a program under a marker; its process id and its first line. All are ended after."""
    started: list[subprocess.Popen[str]] = []

    def start(marker: str, command: list[str]) -> tuple[int, str]:
        environment = {"PATH": os.defpath, processes.MARKER: marker}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process.pid, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_only_the_exact_marker_is_ended(spawn: Callable[..., tuple[int, str]]) -> None:
    """A longer, a shorter and a different marker are left alone, and so is who has none."""
    target, _ = spawn("i-test12", SLEEP)
    others = [spawn(marker, SLEEP)[0] for marker in ("i-test1", "i-test123", "x-test12", "")]
    assert processes.of_instance("i-test12") == {target}
    assert processes.kill_instance("i-test12", timeout_s=10) == set()
    assert not is_alive(target)
    assert all(is_alive(pid) for pid in others)


def test_double_forked_child_is_ended(spawn: Callable[..., tuple[int, str]]) -> None:
    """A process in another session, whose parents are gone, is found by its marker."""
    parent, child = spawn("i-fork", [sys.executable, "-S", "-c", DAEMON])
    assert is_alive(int(child))
    assert processes.kill_instance("i-fork", timeout_s=10) == set()
    assert not is_alive(parent)
    assert not is_alive(int(child))


def test_descendant_without_the_marker_is_found(spawn: Callable[..., tuple[int, str]]) -> None:
    """A child that cleared its environment still belongs to its parent's instance."""
    parent, child = spawn("i-clear", [sys.executable, "-S", "-c", CLEARER])
    poll(lambda: processes.of_instance("i-clear") == {parent, int(child)})
    assert processes.kill_instance("i-clear", parent, timeout_s=10) == set()
    assert not is_alive(int(child))


def test_stranger_is_never_signalled(spawn: Callable[..., tuple[int, str]]) -> None:
    """A process id that has gone to somebody else since it was found is checked once more."""
    stranger, _ = spawn("i-stranger", SLEEP)
    processes._signal("i-gone", stranger, signal.SIGKILL)
    processes._signal("i-gone", 2**22 + 1, signal.SIGKILL)
    assert is_alive(stranger)


def test_root_that_is_kept_lives_on(spawn: Callable[..., tuple[int, str]]) -> None:
    """With keep_root everything goes but the instance's own process."""
    code = "import subprocess, time\nsubprocess.Popen(['/bin/sleep', '600'])\nprint(flush=True)\n"
    root, _ = spawn("i-keep", [sys.executable, "-S", "-c", code + "time.sleep(600)"])
    assert processes.kill_instance("i-keep", root, timeout_s=10, keep_root=True) == set()
    assert processes.of_instance("i-keep") == {root}


def test_what_cannot_be_ended_is_told(
    spawn: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the timeout the processes that still live are returned, not forgotten."""
    target, _ = spawn("i-hard", SLEEP)
    monkeypatch.setattr(processes, "_signal", lambda *_: None)
    assert processes.kill_instance("i-hard", timeout_s=0.02) == {target}


def test_command_line_is_told(spawn: Callable[..., tuple[int, str]]) -> None:
    """A living process has its command line, a dead one none."""
    pid, _ = spawn("i-cmd", SLEEP)
    assert "time.sleep(600)" in processes.command_of(pid)
    assert processes.command_of(2**22 + 1) == ""


def test_ps_output_is_read() -> None:
    """Our own living processes with their marker; other users' and zombies are left out."""
    output = (
        "  501     1   501 Ss   /bin/sh -c x HOME=/h LOCALCLOUD_INSTANCE=i-1 LANG=C\n"
        "  502   501   501 S    sleep 600\n"
        "  503     1     0 S    sleep 600 LOCALCLOUD_INSTANCE=i-1\n"
        "  504   501   501 Z    (sleep)\n"
    )
    assert list(processes.parse_ps(output, 501)) == [
        processes.Process(501, 1, "i-1"),
        processes.Process(502, 501, None),
    ]
