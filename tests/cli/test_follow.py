from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from costguard.cli.follow import Final, conclusion, final_of, follow, stop_is_overdue
from costguard.cli.text import Screen
from costguard.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace


class Script:
    """Stands in for `ask`: a list of moments, each a status row, its events, and the daemon."""

    def __init__(self, *moments: tuple[Any, list[dict[str, Any]]], document: Any) -> None:
        self._moments = iter(moments)
        self._document = document
        self._events: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}
        self.now = 0.0

    def __call__(self, do: str, args: dict[str, Any] | None = None) -> Any:
        """What the daemon would answer at the next moment."""
        assert args is not None
        if do == "status":
            row, events = next(self._moments)
            self._events += events
            if isinstance(row, UserError):
                raise row
            if row is None:
                return self._document(self._last, running=False)
            self._last = row
            return self._document(row)
        assert do == "events"
        return {"events": [event for event in self._events if event["id"] > args["after"]]}

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    def clock(self) -> float:
        """What has passed."""
        return self.now


def event(number: int, kind: str, text: str, **data: Any) -> dict[str, Any]:
    """One event as the daemon gives it."""
    return {"id": number, "at": "", "job": "kefu", "kind": kind, "text": text, "data": data}


def watch(script: Script, *, terminal: bool = False, **options: Any) -> tuple[Final, str]:
    """Follow the script; where it ended and what was shown."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, no_color=True)
    final = follow(
        "kefu", ask=script, console=console, sleep=script.sleep, clock=script.clock, **options
    )
    return final, out.getvalue()


@pytest.fixture
def story(docs: SimpleNamespace) -> Script:
    """A healthy run, seen every half second."""
    setup = {"step": None, "total_steps": None, "loss": None, "eta_s": None}
    steps = [docs.job(step=step, total_steps=100) for step in (1, 2, 9, 10, 11, 12, 35, 100)]
    return Script(
        (docs.job(state="queued", phase=None, **setup), [event(1, "submitted", "submitted")]),
        (docs.job(state="preparing", phase=None, **setup), []),
        (docs.job(state="training", phase="load", **setup), [event(2, "state", "training")]),
        *[(row, []) for row in steps],
        (docs.job(step=100, total_steps=100, phase="save"), []),
        (
            docs.ended(step=100, total_steps=100),
            [event(3, "verdict", "exit 0", guard="finished"), event(4, "stop_confirmed", "is off")],
        ),
        document=docs.status,
    )


def told(text: str) -> list[str]:
    """The lines without their time of day."""
    return [line[10:] for line in text.splitlines()]


def test_the_steps_of_each_stage_are_told(docs: SimpleNamespace) -> None:
    """The second stage begins at its own step 1, below what the first had reached."""
    rows = [docs.job(stage=0, step=step, total_steps=20) for step in (1, 20)]
    rows += [docs.job(stage=1, step=step, total_steps=80) for step in (1, 40, 80)]
    script = Script(
        *[(row, []) for row in rows],
        (docs.ended(stage=1, step=80, total_steps=80), []),
        document=docs.status,
    )
    _final, text = watch(script)
    steps = [line.split("  ")[0] for line in told(text) if line.startswith("step")]
    assert steps == ["step 1/20", "step 20/20", "step 1/80", "step 40/80", "step 80/80"]


def test_piped_each_change_is_one_line(story: Script) -> None:
    """States, phases of the set-up, tenths of the training and events; no step by step flood."""
    final, text = watch(story)
    money = "spent ¥3.21 of ¥80.00"
    assert told(text) == [
        "submitted",
        "queued",
        "preparing",
        "training: load",
        "training",
        f"step 1/100  loss 1.8321  ETA 20 min 34 s  {money}",
        f"step 10/100  loss 1.8321  ETA 20 min 34 s  {money}",
        f"step 35/100  loss 1.8321  ETA 20 min 34 s  {money}",
        f"step 100/100  loss 1.8321  ETA 20 min 34 s  {money}",
        "finished: exit 0",
        "is off",
        "finished",
    ]
    assert (final.exit_code, final.last_event) == (0, 4)


def test_on_a_terminal_there_are_bars(story: Script) -> None:
    """Set-up, steps with loss, and yuan against the cap; steps are no lines of their own."""
    _final, text = watch(story, terminal=True)
    assert "set-up" in text
    assert "100/100  loss 1.8321" in text.replace("step ", "")
    assert "¥3.21 of ¥80.00, ¥3.75 reserved" in text
    assert "spent ¥3.21" not in text


def test_it_can_end_before_the_job_does_and_go_on_later(docs: SimpleNamespace) -> None:
    """`until` ends the watch; a second one with `after` does not repeat the events."""
    first = Script((docs.job(step=8), [event(5, "rented", "rented it")]), document=docs.status)
    final, text = watch(first, until=lambda row: row["step"] >= 8)
    assert not final.ended
    assert "rented it" in text
    second = Script((docs.ended(), [event(5, "rented", "rented it")]), document=docs.status)
    _final, text = watch(second, after=final.last_event)
    assert "rented it" not in text


def test_alarms_are_loud(docs: SimpleNamespace) -> None:
    """A stop that is not confirmed and a broken cap stand out."""
    alarm = event(1, "stop_not_confirmed", "the meter still runs", loud=True)
    script = Script(
        (docs.job(state="pausing", breach=True), [alarm]),
        (docs.ended("paused", "budget", breach=True), []),
        document=docs.status,
    )
    lines = told(watch(script)[1])
    assert "!!! the meter still runs" in lines
    assert "!!! the cap is broken: more was spent than it allows" in lines


def test_a_daemon_that_is_gone_is_said_once_and_waited_for(docs: SimpleNamespace) -> None:
    """Loud when it goes, a line when it is back, and the story goes on."""
    gone = UserError("daemon_silent", "no answer")
    script = Script(
        (docs.job(), []), (None, []), (gone, []), (docs.job(), []), (docs.ended(), []),
        document=docs.status,
    )  # fmt: skip
    final, text = watch(script)
    assert final.exit_code == 0
    assert text.count("!!! the daemon does not answer") == 1
    assert text.count("the daemon is back") == 1


def test_a_daemon_that_stays_away_ends_the_watch(docs: SimpleNamespace) -> None:
    """With the instance last seen running, that is exit code 9: nobody knows that it stops."""

    def moments() -> Iterator[tuple[Any, list[dict[str, Any]]]]:
        yield (docs.job(), [])
        while True:
            yield (None, [])

    script = Script(document=docs.status)
    script._moments = moments()
    final, _text = watch(script, patience_s=10)
    assert script.now == pytest.approx(10.5)
    assert final.exit_code == 9


def test_an_unknown_job_is_an_error_at_once(docs: SimpleNamespace) -> None:
    """Nothing was ever known of it, so there is nothing to wait for."""
    script = Script((UserError("unknown_job", "none such"), []), document=docs.status)
    with pytest.raises(UserError, match="none such"):
        watch(script)


@pytest.mark.parametrize(
    ("state", "reason", "power", "code"),
    [
        ("finished", "finished", "stopped", 0),
        ("paused", "budget", "stopped", 3),
        ("paused", "max_hours", "stopped", 3),
        ("paused", "stalled", "stopped", 4),
        ("paused", "idle", "stopped", 4),
        ("paused", "blind", "stopped", 4),
        ("paused", "diverged", "stopped", 4),
        ("failed", "failed", "stopped", 5),
        ("paused", "platform", "unknown", 6),
        ("paused", "gate", "stopped", 8),
        ("paused", "user", "stopped", 8),
        ("released", None, "released", 8),
        ("released", "finished", "released", 0),
        ("finished", "finished", "running", 9),
        ("pausing", "budget", "off_billing", 9),
        ("pausing", "budget", "unknown", 9),
        ("paused", "budget", None, 3),
    ],
)
def test_exit_codes(
    docs: SimpleNamespace, state: str, reason: str | None, power: str | None, code: int
) -> None:
    """The table of the command contract; a stop that is not confirmed overrides the rest."""
    instance = None if power is None else docs.job()["instance"] | {"power": power}
    row = docs.job(state=state, pause_reason=reason, instance=instance)
    assert final_of(row).exit_code == code


def test_a_stop_is_overdue_once_the_daemon_says_so(docs: SimpleNamespace) -> None:
    """An ordinary pause is not an alarm, and one that has ended is over."""
    alarm = [event(1, "stop_not_confirmed", "still on", loud=True)]
    pausing = docs.job(state="pausing")
    assert stop_is_overdue("kefu", Script((pausing, alarm), document=docs.status))
    assert not stop_is_overdue("kefu", Script((pausing, []), document=docs.status))
    assert not stop_is_overdue("kefu", Script((docs.ended(), alarm), document=docs.status))


def test_the_conclusion_is_about_this_job(docs: SimpleNamespace) -> None:
    """Verdict, evidence and the job's own rows; other jobs' money is not mixed in."""
    row = docs.ended("paused", "idle")
    answers = {
        "explain": docs.explain(),
        "report": docs.report(),
        "status": docs.status(row),
    }
    lines = conclusion(final_of(row), lambda do, args=None: answers[do], Screen())
    text = "\n".join(lines)
    assert "quiet for 300 s in the training phase" in text
    assert "¥2.45" in text
    assert "¥1,152.45" not in text
    assert lines[-1] == "spent ¥3.21 of ¥80.00   left ¥71.21   worst case ¥6.96"
