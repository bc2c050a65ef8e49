"""A progress bar where a person sits at a terminal; elsewhere the lines alone tell.

What else is said appears above it. The time left is the run's own reckoning: a bar's own would
count the steps of earlier sessions as this one's.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from trainer.lang import told
from trainer.progress import clock_text


class Bar:
    """Shown from the first step on, if it is `wanted`, stdout is a terminal and rich is there."""

    def __init__(self, total_steps: int, *, wanted: bool) -> None:
        self._total = total_steps
        self._wanted = wanted and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Any = None
        self._task: Any = None

    def show(self, step: int, loss: float, eta_s: float | None) -> None:
        """The run stands at `step`, with `eta_s` seconds left."""
        if self._wanted and self._bar is None:
            self._open()
        if self._bar is not None:
            left = "?" if eta_s is None else clock_text(eta_s)
            self._bar.update(self._task, completed=step, told=told(f"loss {loss:.4f}  left {left}"))
            self._bar.refresh()

    def close(self) -> None:
        """Leave it as it stands; what is said afterwards comes below."""
        self._wanted = False
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open(self) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        except ImportError:  # it is no need of the trainer's: the lines are there
            self._wanted = False
            return
        # Refreshed by us, once a step: a thread of its own would run beside the compiler's forks.
        self._bar = Progress(
            TextColumn(told("step")), MofNCompleteColumn(), BarColumn(bar_width=None),
            TextColumn("{task.fields[told]}"),
            auto_refresh=False, expand=True, console=Console(),
        )  # fmt: skip
        self._bar.start()
        # A second stop request ends the process at once; it must not leave a hidden cursor behind.
        self._bar.console.show_cursor(True)
        self._task = self._bar.add_task("train", total=self._total, told="")
