from __future__ import annotations

from typing import Any

import pytest

from costguard.daemon.memory import JobMemory
from costguard.daemon.preparing import note_preparing, told


def installing(seconds: float, line: str = "Downloading x") -> dict[str, Any]:
    """A message of an installation that is under way."""
    known = {"t": "install", "state": "installing", "packages": ["peft", "trl"]}
    return {**known, "seconds": seconds, "line": line, "within_s": 900}


def told_by(memory: JobMemory) -> list[tuple[str, str]]:
    """The events that are to be recorded."""
    return [event for message in memory.preparing for event in told(message)]


def test_an_installation_is_a_phase_and_is_told_now_and_then() -> None:
    """Each half a minute a line of pip's, not each two seconds; then how long it took."""
    memory = JobMemory()
    assert memory.phase is None
    for seconds in range(0, 70, 2):
        note_preparing(memory, installing(seconds))
        assert memory.phase == "install"
    note_preparing(memory, {"t": "install", "state": "installed", "python": "/e", "seconds": 70.2})
    assert memory.phase is None
    assert told_by(memory) == [
        (
            "installing",
            "installing on the instance what is missing there: peft, trl (for 15 min at most)",
        ),
        ("installing", "still installing after 30 s: Downloading x"),
        ("installing", "still installing after 60 s: Downloading x"),
        ("installed", "installed in 70 s: /e"),
    ]


def test_an_installation_that_failed_says_why() -> None:
    """And one that was there already is no news."""
    memory = JobMemory()
    note_preparing(memory, installing(0))
    note_preparing(memory, {"t": "install", "state": "failed", "line": "no such package"})
    note_preparing(memory, {"t": "install", "state": "present"})
    assert told_by(memory)[1:] == [("install_failed", "could not be installed: no such package")]


@pytest.mark.parametrize("rows", [None, [3], [{"verdict": "ok", "check": "disk", "seen": "x"}]])
def test_a_first_contact_without_warnings_is_one_line(rows: object) -> None:
    """Whatever the instance says, it is taken as data."""
    (event,) = told({"t": "contact", "rows": rows})
    assert event[0] == "first_contact"


def test_what_first_contact_warns_of_is_shown() -> None:
    """Data on a network's file system above all; what failed has its own words."""
    mount = {"check": "the job's folder", "verdict": "warn", "seen": "nfs4 from nas:/x"}
    rows = [{**mount, "hint": "copy it"}, {"check": "clock", "verdict": "unknown", "seen": "?"}]
    rows.append({"check": "peft", "verdict": "fail", "seen": "not there"})
    events = told({"t": "contact", "rows": rows})
    assert events == [
        ("first_contact", "first contact: 0 of 3 checks are fine; unknown: clock"),
        ("contact_warning", "the job's folder: nfs4 from nas:/x (copy it)"),
    ]
