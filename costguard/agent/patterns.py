"""Progress by a regular expression on a command's output, for trainers that write no log of ours.

The expression is the user's and the output is anybody's: a match that does not come to an end must
not hold up the agent, which is also the dead man's switch. So each look has a time limit, and an
expression that runs into it is not used again.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from typing import TYPE_CHECKING, Any

from costguard.core.patterns import WHOLE, PatternError, compile_pattern

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence

__all__ = ["LineProgress", "PatternError", "TooSlowError", "compile_pattern"]

LIMIT_S = 0.25
LINE_CHARS = 1000
MESSAGES_MAX = 50


class TooSlowError(Exception):
    """A match did not come to an end in time."""


class LineProgress:
    """Turns lines of output into the fields of `progress` messages.

    The same step with the same figures again (a progress bar that is drawn anew) is told once.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._last: dict[str, Any] | None = None
        self._gave_up = False

    def feed(self, lines: Sequence[str]) -> list[dict[str, Any]]:
        """The new progress in these lines, the latest 50; raises TooSlowError once."""
        if self._gave_up:
            return []
        found: list[dict[str, Any]] = []
        try:
            with time_limit(LIMIT_S):
                for line in lines:
                    match = self._pattern.search(line[:LINE_CHARS])
                    fields = None if match is None else read_groups(match)
                    if fields is not None and fields != self._last:
                        self._last = fields
                        found.append(fields)
        except TooSlowError:
            self._gave_up = True
            raise
        return found[-MESSAGES_MAX:]


def read_groups(match: re.Match[str]) -> dict[str, Any] | None:
    """The figures of one match; None without a whole step. NaN is null, and named."""
    figures = {
        name: _number(text, whole=name in WHOLE)
        for name, text in match.groupdict().items()
        if text is not None
    }
    if not isinstance(figures.get("step"), int):
        return None
    nonfinite = [
        name
        for name, value in figures.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    told = {name: None if name in nonfinite else value for name, value in figures.items()}
    return {**dict.fromkeys(("total_steps", "loss")), **told, "nonfinite": nonfinite}


def _number(text: str, *, whole: bool) -> float | int | None:
    try:
        return int(text.replace(",", "")) if whole else float(text)
    except ValueError:
        return None


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TooSlowError in the block after so many seconds, in the main thread of a process.

    The expression engine looks for signals now and then; elsewhere there is no such limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_alarm(_number: int, _frame: object) -> None:
        raise TooSlowError(f"no end of a match within {seconds} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
