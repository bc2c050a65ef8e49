"""Stop requests, in small processes of their own: some of them end the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from trainer.stop import StopRequests

ROOT = Path(__file__).parents[2]
PRELUDE = """
import sys, time
from trainer.stop import StopRequests
stop = StopRequests()
stop.before_exit = lambda: print("before exit", flush=True)
"""


class _Ended(NamedTuple):
    code: int
    output: str
    seconds: float


def run(program: str, first: signal.Signals, second: signal.Signals | None = None) -> _Ended:
    """The end of a program that gets `first` once it says ready, `second` once it says asked."""
    child = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        began_s = time.monotonic()
        child.send_signal(first)
        if second:
            assert child.stdout.readline() == "asked\n"
            child.send_signal(second)
        output, _nothing = child.communicate(timeout=20)
    finally:
        child.kill()
        child.communicate()
    return _Ended(child.returncode, output, time.monotonic() - began_s)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_outside_of_steps_it_ends_at_once(signum: signal.Signals) -> None:
    """While loading: before_exit is called, the exit code is 75, in far under 5 s."""
    code, output, seconds = run('with stop: print("ready", flush=True); time.sleep(30)', signum)
    assert (code, output) == (75, "before exit\n")
    assert seconds < 5


def test_a_second_signal_ends_it_now() -> None:
    """While a step runs the first only asks; the second ends the process as the signal would."""
    program = """
with stop, stop.deferred():
    print("ready", flush=True)
    while not stop.requested: time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(30)
"""
    code, output, seconds = run(program, signal.SIGTERM, signal.SIGTERM)
    assert (code, output) == (128 + signal.SIGTERM, "")
    assert seconds < 5


ASKED_IN_THE_SAVE = """
with stop, stop.deferred(0.2):
    print("ready", flush=True)
    time.sleep(30)
"""
ASKED_IN_THE_LAST_STEP = """
with stop:
    with stop.deferred():
        print("ready", flush=True)
        while not stop.requested: time.sleep(0.01)
    with stop.deferred(0.2):
        time.sleep(30)
"""


@pytest.mark.parametrize("program", [ASKED_IN_THE_SAVE, ASKED_IN_THE_LAST_STEP])
def test_the_final_save_gets_its_grace_and_no_more(program: str) -> None:
    """A save that hangs past its grace ends with 75 all the same."""
    code, output, seconds = run(program, signal.SIGTERM)
    assert (code, output) == (75, "before exit\n")
    assert 0.15 < seconds < 5


def test_while_steps_run_a_request_is_only_noted() -> None:
    """The loop looks at `requested`; the handlers are put back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with StopRequests() as stop, stop.deferred():
        seen = [stop.requested]
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(stop.requested)
    assert seen == [False, True]
    assert signal.getsignal(signal.SIGTERM) is before
