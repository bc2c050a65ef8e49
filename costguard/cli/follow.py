"""Watch one job until it has ended: bars on a terminal, one line a change where it is piped.

What is shown is what the daemon answers; nothing is computed here, and ending the watch changes
nothing about the job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from costguard.cli.render import explain_lines
from costguard.cli.spend import report_lines
from costguard.cli.text import Screen, screen_of
from costguard.cli.words import (
    led_by,
    money,
    phase_word,
    reason_word,
    state_word,
    step_parts,
    with_aside,
)
from costguard.errors import EXIT_INTERNAL, UserError
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from rich.console import Console

FINAL_STATES = frozenset({"paused", "finished", "failed", "released"})
STOPPED_POWERS = frozenset({"stopped", "released"})
STOP_NOT_CONFIRMED = "stop_not_confirmed"
ALARM_KINDS = frozenset({STOP_NOT_CONFIRMED, "running_without_lease", "overrun", "duplicate"})
SILENT_KINDS = frozenset({"state", "phase", "progress"})  # shown from the status instead

EXIT_STOP_NOT_CONFIRMED = 9
EXIT_BY_REASON = {
    "finished": 0,
    "budget": 3,
    "max_hours": 3,
    "stalled": 4,
    "idle": 4,
    "blind": 4,
    "diverged": 4,
    "failed": 5,
    "platform": 6,
    "gate": 8,
    "user": 8,
}
EXIT_BY_STATE = {"finished": 0, "failed": 5, "released": 8, "paused": 8}

POLL_S = 0.5
PATIENCE_S = 60.0
EVENTS_A_TIME = 200
TENTHS = 10

Row = Mapping[str, Any]


class Ask(Protocol):
    """`client.ask`, or whatever stands in for it."""

    def __call__(self, do: str, args: dict[str, Any] | None = None) -> Any:
        """The daemon's answer."""
        ...


@dataclass(frozen=True, slots=True)
class Final:
    """Where a job was when watching ended; `ended` is false when that was before its end."""

    job: str
    state: str
    pause_reason: str | None
    breach: bool
    stop_confirmed: bool
    last_event: int = 0

    @property
    def ended(self) -> bool:
        """Whether the job is in a final state."""
        return self.state in FINAL_STATES

    @property
    def exit_code(self) -> int:
        """The exit code of `run`, by the table of the command contract."""
        if not self.stop_confirmed:
            return EXIT_STOP_NOT_CONFIRMED
        if not self.ended:
            return EXIT_INTERNAL
        if self.pause_reason in EXIT_BY_REASON:
            return EXIT_BY_REASON[self.pause_reason]
        return EXIT_BY_STATE[self.state]


@dataclass(frozen=True, slots=True)
class News:
    """One line to show; loud ones are alarms, `tick` ones what a progress bar shows already."""

    text: str
    loud: bool = False
    tick: bool = False


@dataclass
class Story:
    """What was told already, so that each change is told once."""

    screen: Screen
    _last_state: tuple[object, ...] = ()
    _last_stage: object = None
    _last_tenth: int = -1
    _last_step: object = None
    _breach_told: bool = False
    _outage_told: bool = False

    def of_row(self, row: Row) -> list[News]:
        """What is new in the job's status."""
        news = []
        # Once steps are made, saving and evaluating come and go: the steps are the news then.
        phase = row.get("phase") if row.get("step") is None else None
        state = (row["state"], phase, row.get("pause_reason"))
        if state != self._last_state:
            self._last_state = state
            news.append(News(_state_line(*state)))
        if row.get("stage") != self._last_stage:  # its steps are counted anew
            self._last_stage, self._last_tenth, self._last_step = row.get("stage"), -1, None
        tenth = self._tenth(row)
        last = row.get("step") == row.get("total_steps") and row.get("step") != self._last_step
        if row.get("step") is not None and (tenth > self._last_tenth or last):
            self._last_tenth, self._last_step = tenth, row["step"]
            news.append(News(progress_line(row, self.screen), tick=True))
        if row.get("breach") and not self._breach_told:
            self._breach_told = True
            news.append(News(_("the cap is broken: more was spent than it allows"), loud=True))
        return news

    def of_events(self, events: list[Row]) -> list[News]:
        """What is worth a line among the daemon's events."""
        return [
            News(_event_line(event), loud=is_alarm(event))
            for event in events
            if event["kind"] not in SILENT_KINDS
        ]

    def of_daemon(self, *, answers: bool) -> list[News]:
        """One loud line when the daemon is gone, one when it is back."""
        if answers != self._outage_told:
            return []
        self._outage_told = not answers
        if answers:
            return [News(_("the daemon is back"))]
        gone = _("the daemon does not answer: leases run out, then the other enforcers stop it")
        return [News(gone, loud=True)]

    def _tenth(self, row: Row) -> int:
        total = row.get("total_steps")
        return int(row["step"]) * TENTHS // int(total) if total and row.get("step") else -1


def is_alarm(event: Row) -> bool:
    """Whether this event says that money is not as it should be."""
    return event["kind"] in ALARM_KINDS or bool((event.get("data") or {}).get("loud"))


def progress_line(row: Row, screen: Screen) -> str:
    """Step, loss, time to go, and the money so far."""
    return "  ".join([*step_parts(row), money_line(row, screen)])


def money_line(row: Row, screen: Screen) -> str:
    """Spent against the cap."""
    budget = row["budget"]
    return _("spent {spent} of {cap}").format(
        spent=money(budget["spent_yuan"], screen), cap=money(budget["cap_yuan"], screen)
    )


def follow(
    job: str,
    *,
    ask: Ask,
    console: Console,
    until: Callable[[Row], bool] | None = None,
    after: int = 0,
    poll_s: float = POLL_S,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Final:
    """Show the job as it goes; return where it is at its end, or once `until(row)` is true.

    A daemon that is gone is waited for, loudly, for `patience_s`; then the watch ends too, with
    what was last known. Events up to `after` were told before, by an earlier watch. Raises
    UserError when nothing was ever known.
    """
    from costguard.cli.bars import drawn_bars

    screen = screen_of_console(console)
    story = Story(screen)
    row: Row | None = None
    seen, heard = after, clock()
    terminal = console.is_terminal
    bars: AbstractContextManager[Any] = drawn_bars(console) if terminal else nullcontext()
    with bars as drawn:
        while True:
            answers, news = True, []
            try:
                document = ask("status", {"job": job})
                row, answers = document["jobs"][0], bool(document["daemon"]["running"])
                events, seen = _events(ask, job, seen)
                news = [*story.of_events(events), *story.of_row(row)]
            except UserError:
                answers = False
                if row is None:
                    raise
            heard = clock() if answers else heard
            for item in [*story.of_daemon(answers=answers or _ended(row)), *news]:
                _tell(console, item, skip_ticks=drawn is not None)
            if drawn is not None:
                drawn.show(row)
            if _ended(row) or (until is not None and until(row)) or clock() - heard > patience_s:
                return final_of(row, seen)
            sleep(poll_s)


def final_of(row: Row, last_event: int = 0) -> Final:
    """The status row as a Final.

    A job in a final state was seen stopped. An instance that is gone shows as unknown then, but
    one that somebody switched on again does not.
    """
    power = (row.get("instance") or {}).get("power")
    believed = STOPPED_POWERS | ({"unknown"} if _ended(row) else set())
    return Final(
        job=row["job"],
        state=row["state"],
        pause_reason=row.get("pause_reason"),
        breach=bool(row.get("breach")),
        stop_confirmed=power is None or power in believed,
        last_event=last_event,
    )


def stop_is_overdue(job: str, ask: Ask) -> bool:
    """Whether the daemon is trying to stop this job and has alarmed that it does not stop."""
    row = ask("status", {"job": job})["jobs"][0]
    if _ended(row) or row["state"] != "pausing":
        return False
    events, _last = _events(ask, job, 0)
    return any(event["kind"] == STOP_NOT_CONFIRMED for event in events)


def conclusion(final: Final, ask: Ask, screen: Screen) -> list[str]:
    """What is printed at the end: the verdict, its evidence, and what the job cost."""
    explained = ask("explain", {"job": final.job})
    report = dict(ask("report", {}))
    report["rows"] = [row for row in report["rows"] if row.get("job") in {final.job, None}]
    row = ask("status", {"job": final.job})["jobs"][0]
    sums = [
        money_line(row, screen),
        f"{_('left')} {money(row['budget']['left_yuan'], screen)}",
        f"{_('worst case')} {money(row['budget']['worst_case_yuan'], screen)}",
    ]
    return [
        *explain_lines(explained, screen),
        "",
        *report_lines(report, screen, totals=False),
        "",
        "   ".join(sums),
    ]


def screen_of_console(console: Console) -> Screen:
    """The Screen that a Rich console draws on."""
    base = screen_of(sys.stdout)
    return Screen(
        columns=console.width,
        colour=console.is_terminal and not console.no_color,
        encoding=console.encoding or base.encoding,
    )


def _events(ask: Ask, job: str, after: int) -> tuple[list[Row], int]:
    """Every event after that number, and the number of the last."""
    events: list[Row] = []
    while True:
        answer = ask("events", {"job": job, "after": after, "limit": EVENTS_A_TIME})
        events += answer["events"]
        after = max(after, *(int(event["id"]) for event in answer["events"]), 0)
        if len(answer["events"]) < EVENTS_A_TIME:
            return events, after


def _ended(row: Row | None) -> bool:
    return row is not None and row["state"] in FINAL_STATES


def _state_line(state: str, phase: str | None, reason: str | None) -> str:
    text = state_word(state)
    if phase and state not in FINAL_STATES:
        text = led_by(text, phase_word(phase))
    return with_aside(text, reason_word(reason)) if reason and reason != state else text


def _event_line(event: Row) -> str:
    """The event's sentence, a verdict's with its guard in front."""
    guard = (event.get("data") or {}).get("guard") if event["kind"] == "verdict" else None
    text = retell(str(event["text"]))
    return led_by(reason_word(str(guard)), text) if guard else text


def _tell(console: Console, item: News, *, skip_ticks: bool) -> None:
    if item.tick and skip_ticks:
        return
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    text = f"{now}  !!! {item.text}" if item.loud else f"{now}  {item.text}"
    style = "bold red" if item.loud else ""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
