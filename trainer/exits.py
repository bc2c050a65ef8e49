"""How `python -m trainer` ends. Whoever watches a run judges its end by the exit code alone."""

from __future__ import annotations

from trainer.lang import told

FINISHED = 0
CRASHED = 1  # an error of ours or of a library: its traceback is on stderr
USAGE = 2
DATA = 65
DIVERGED = 70
SAVED_ON_REQUEST = 75
SAVE_FAILED = 76
INTERRUPTED = 130  # Ctrl-C in a command that has nothing to save; as a shell would have it


class Refusal(Exception):
    """The run cannot go on: what was wrong, where, what to do, and the exit code that says so."""

    def __init__(self, exit_code: int, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.exit_code = exit_code
        self.what = what
        self.where = where
        self.hint = hint

    def text(self) -> str:
        """The refusal as a person reads it: what and where, then what to do."""
        first = told(self.what)
        if self.where:
            first = told(self.where) + told(": ") + first
        return f"{first}\n  {told(self.hint)}" if self.hint else first
