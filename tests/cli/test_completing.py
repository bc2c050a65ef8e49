from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from costguard.cli.completing import job_names, one_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import FakeDaemon

JOBS = {"jobs": [{"job": "kefu"}, {"job": "kefu-2"}, {"job": "写诗"}]}


@pytest.mark.parametrize(
    ("typed", "offered"), [("", ["kefu", "kefu-2", "写诗"]), ("kefu-", ["kefu-2"]), ("x", [])]
)
def test_a_job_is_offered_by_its_name(daemon: FakeDaemon, typed: str, offered: list[str]) -> None:
    """In the order of `status`."""
    daemon.answers["status"] = JOBS
    assert job_names(typed) == offered


def test_where_nobody_can_tell_nothing_is_offered(daemon: FakeDaemon) -> None:
    """No error on a TAB."""
    daemon.answers["status"] = {"error": {"code": "x", "what": "broken"}}
    assert job_names("") == []


def test_words_are_offered_by_their_beginning() -> None:
    """An option that takes one of a few."""
    assert one_of("stage", "phase", "platform")("p") == ["phase", "platform"]


def test_the_shell_is_answered_with_commands_and_jobs(daemon: FakeDaemon, home: Path) -> None:
    """As bash asks: through the environment, one word a line."""
    daemon.answers["status"] = JOBS

    def offered(line: str) -> list[str]:
        environment = {
            "COSTGUARD_HOME": str(home),
            "_COSTGUARD_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
            "PYTHONIOENCODING": "utf-8",
            "PATH": "",
        }
        command = [sys.executable, "-c", "from costguard.cli.main import main; main([])"]
        done = subprocess.run(
            command, env=environment, capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout.split()

    assert offered("costguard rep") == ["report"]
    assert offered("costguard explain kefu") == ["kefu", "kefu-2"]
    assert offered("costguard report --by p") == ["phase", "platform"]
