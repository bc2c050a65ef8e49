"""How a subcommand answers: one JSON line on standard output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_REFUSED = 3


def answer(message: Mapping[str, Any]) -> int:
    """Prints the answer; returns exit status 0."""
    print(json.dumps(message), flush=True)  # noqa: T201  standard output is the interface
    return 0


def refuse(code: str, what: str) -> int:
    """Prints why not; returns exit status 3."""
    error = {"code": code, "what": what, "where": str(Path.cwd()), "hint": ""}
    answer({"t": "error", "error": error})
    return EXIT_REFUSED
