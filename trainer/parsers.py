"""An argument parser whose help and errors are in the person's language."""

from __future__ import annotations

import argparse
from typing import NoReturn

from trainer.lang import told


class ToldParser(argparse.ArgumentParser):
    """As argparse has it; each text is told when it is shown, and English until then."""

    def format_help(self) -> str:
        """The help page."""
        for action in self._actions:
            action.help = told(action.help) if action.help else action.help
        for group in self._action_groups:
            group.title = told(group.title or "")
        return super().format_help().replace("usage: ", told("usage: "), 1)

    def error(self, message: str) -> NoReturn:
        """End the process with what was wrong."""
        super().error(told(message))
