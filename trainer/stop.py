"""Stop requests: SIGTERM (or Ctrl-C) asks to save and end; a second one ends the process at once.

While steps run, the request waits for the end of the optimizer step. At any other time there is
nothing to save that is not on the disk already, and the process ends with SAVED_ON_REQUEST: at
once while it loads, within `FINAL_SAVE_GRACE_S` while it writes the final artifact.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from trainer.exits import SAVED_ON_REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

FINAL_SAVE_GRACE_S = 4.0
"""Under the 5 s that the agent is promised outside the training phase."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """Catches the signals while it is entered; the main thread must enter it."""

    def __init__(self) -> None:
        self.requested = False
        self.before_exit: Callable[[], None] = lambda: None
        self._wait_at_most_s: float | None = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:  # noqa: PYI034 - typing.Self needs Python 3.11
        for signum in _SIGNALS:
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def deferred(self, at_most_s: float | None = None) -> Iterator[None]:
        """Inside, a request only sets `requested`; the caller looks at it, within `at_most_s`."""
        self._wait_at_most_s = at_most_s
        if self.requested and at_most_s is not None:
            self._exit_later(at_most_s)
        try:
            yield
        finally:
            self._wait_at_most_s = 0.0

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + signum)
        self.requested = True
        if self._wait_at_most_s is None:
            return
        if self._wait_at_most_s <= 0:
            self._exit_now()
        self._exit_later(self._wait_at_most_s)

    def _exit_later(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._exit_now)
        timer.daemon = True
        timer.start()

    def _exit_now(self) -> None:
        self.before_exit()
        os._exit(SAVED_ON_REQUEST)
