from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from costguard.localcloud import launch
from tests.localcloud.world import is_alive, poll

if TYPE_CHECKING:
    from pathlib import Path


def test_failure_is_told_in_the_platforms_own_words(tmp_path: Path) -> None:
    """A platform that refuses its options raises with the text that it wrote."""
    with pytest.raises(launch.LaunchError, match="--quantum-s"):
        launch.start(tmp_path, "--quantum-s", "0")


def test_platform_that_is_never_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the time-out the platform is killed, and the error names the file that did not come."""
    monkeypatch.setattr(launch, "READY_TIMEOUT_S", 0.0)
    with pytest.raises(launch.LaunchError, match=r"endpoint\.json"):
        launch.start(tmp_path)


def test_stop_may_be_repeated(tmp_path: Path) -> None:
    """Stopping twice returns the same status."""
    running = launch.start(tmp_path)
    assert (running.stop(), running.stop()) == (0, 0)
    assert not is_alive(running.process.pid)


def test_platform_ends_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    """A caller that keeps the pipe's other end needs no clean-up code: SIGKILL is enough."""
    caller = textwrap.dedent(
        """
        import os, pathlib, sys, time
        from costguard.localcloud import launch
        reader, writer = os.pipe()
        running = launch.start(pathlib.Path(sys.argv[1]), parent_fd=reader)
        print(running.process.pid, flush=True)
        time.sleep(600)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", caller, str(tmp_path)],
        env={"PYTHONPATH": str(launch.PACKAGE_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    platform_pid = int(process.stdout.readline())
    process.stdout.close()
    assert is_alive(platform_pid)
    process.kill()
    process.wait()
    poll(lambda: not is_alive(platform_pid), "the platform's end")


def test_file_of_an_earlier_platform_is_not_believed(tmp_path: Path) -> None:
    """endpoint.json left by a platform that was killed is not taken for the new one's."""
    first = launch.start(tmp_path)
    first.process.kill()
    first.process.wait()
    assert (tmp_path / "endpoint.json").exists()
    second = launch.start(tmp_path)
    assert second.process.poll() is None
    assert second.stop() == 0
