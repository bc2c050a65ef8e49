from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.bar import Bar
from trainer.progress import say

ROOT = Path(__file__).parents[2]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def sit_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Not a fixture: pytest puts its own stdout there when a test begins."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = _Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it stands and the run's own time left; what is said stays whole, above it."""
    terminal = sit_at_a_terminal(monkeypatch)
    bar = Bar(375, wanted=True)
    bar.show(12, 1.2345, 4321.0)
    say("step 12/375  loss 1.2345")
    bar.show(13, 1.2, None)
    bar.close()
    say("afterwards")
    shown = terminal.getvalue()
    assert "12/375" in shown
    assert "left 1:12:01" in shown
    assert "step 12/375  loss 1.2345\n" in shown
    assert "13/375" in shown.split("step 12/375  loss 1.2345\n")[1]
    assert shown.endswith("afterwards\n")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is there
    assert sys.stdout is terminal


@pytest.mark.parametrize("why", ["piped", "unwanted", "dumb", "without rich"])
def test_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Not a byte of it in a file, and rich is no need."""
    terminal = sit_at_a_terminal(monkeypatch)
    if why == "piped":
        monkeypatch.setattr(_Terminal, "isatty", lambda _self: False)
    if why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    if why == "without rich":
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    bar = Bar(375, wanted=why != "unwanted")
    bar.show(12, 1.2345, 4321.0)
    bar.close()
    assert terminal.getvalue() == ""


def test_a_thread_that_would_stay_does_not_keep_the_process(tmp_path: Path) -> None:
    """The run is over, and a card that waits costs as much as one that trains."""
    program = (
        "import threading, time\n"
        "from trainer.__main__ import leave\n"
        "threading.Thread(target=time.sleep, args=(600,), name='uploader').start()\n"
        "leave(75)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (75, "ended without waiting for: uploader\n")
