"""The agent's command line: `start`, `attach`, `probe`, `contact`, `install`, `hash`, `send`.

Each is a module of its own, imported only when it is asked for: a bundle's modules are compiled
at every run, and the machine that pays for them is rented.
"""

from __future__ import annotations

import argparse
import importlib
import os
from typing import TYPE_CHECKING

from costguard.agent.answers import refuse
from costguard.agent.spec import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "start": "starts the agent of a directory",
    "attach": "joins standard input and output to the agent",
    "probe": "tells what the machine offers",
    "contact": "judges what the machine offers by what the job needs",
    "install": "installs what is missing, where the order allows it",
    "hash": "tells size and sha256 of files",
    "send": "writes files to standard output",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status, 3 where the order cannot be carried out."""
    arguments = _parser().parse_args(argv)
    command = importlib.import_module(f"costguard.agent.commands.{arguments.command}")
    try:
        os.chdir(arguments.dir)
        return int(command.run(arguments))
    except SpecError as error:
        return refuse("bad_spec", str(error))
    except OSError as error:
        return refuse("os_error", f"{type(error).__name__}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent.pyz", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, allow_abbrev=False)
        command.add_argument("--dir", required=name != "probe", default=".")
        if name == "attach":
            command.add_argument("--after", type=int, default=0)
        if name == "hash":
            command.add_argument("files", nargs="*")
    return parser
