"""Three bars for one job on a terminal: set-up, training with loss, yuan against the cap."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn

from costguard.cli.follow import FINAL_STATES, screen_of_console
from costguard.cli.words import led_by, micros, money, phase_word, state_word, step_parts
from costguard.lang import _

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

SETUP_BEHIND = {
    "queued": 0,
    "waiting_capacity": 0,
    "provisioning": 1,
    "preparing": 2,
    "training": 3,
}


@contextmanager
def drawn_bars(console: Console) -> Iterator[Bars]:
    """Bars under whatever the console prints; their last state stays on the screen."""
    bars = Bars(console)
    with bars.progress:
        yield bars


class Bars:
    """The bars; `show(row)` redraws them while `progress` is entered."""

    def __init__(self, console: Console) -> None:
        self._screen = screen_of_console(console)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[info]}", markup=False),
            console=console,
            expand=True,
        )
        self._setup = self.progress.add_task(_("set-up"), total=3, info="")
        self._steps = self.progress.add_task(_("training"), total=None, start=False, info="")
        self._money = self.progress.add_task(_("yuan"), total=None, start=False, info="")

    def show(self, row: Mapping[str, Any] | None) -> None:
        """Draw the bars as the status row has it."""
        if row is None:
            return
        self.progress.update(self._setup, info=_setup_info(row))
        if row["state"] in SETUP_BEHIND:
            self.progress.update(self._setup, completed=SETUP_BEHIND[row["state"]])
        if row.get("step") is not None:
            info = "  ".join(step_parts(row))
            self.progress.start_task(self._steps)
            self.progress.update(
                self._steps, total=row.get("total_steps"), completed=row["step"], info=info
            )
        budget = row["budget"]
        spent, cap = (money(budget[key], self._screen) for key in ("spent_yuan", "cap_yuan"))
        reserved = money(budget["reserved_yuan"], self._screen)
        self.progress.start_task(self._money)
        self.progress.update(
            self._money,
            total=micros(budget["cap_yuan"]),
            completed=micros(budget["spent_yuan"]),
            info=_("{spent} of {cap}, {reserved} reserved").format(
                spent=spent, cap=cap, reserved=reserved
            ),
        )


def _setup_info(row: Mapping[str, Any]) -> str:
    """The state, with the phase where there is one."""
    phase = row.get("phase") if row["state"] not in FINAL_STATES else None
    return (
        led_by(state_word(row["state"]), phase_word(phase)) if phase else state_word(row["state"])
    )
