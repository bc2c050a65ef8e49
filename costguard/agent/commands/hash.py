"""`hash`: which files are here already, by their content."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent.answers import answer
from costguard.agent.digest import sha256_of

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Prints size and sha256 of files; without names, reads them as a JSON list from stdin."""
    names = arguments.files or json.load(sys.stdin)
    return answer({"files": {name: _entry(Path(name)) for name in names}})


def _entry(path: Path) -> dict[str, Any] | None:
    """Size and sha256; None for a file that cannot be read."""
    try:
        return {"size": path.stat().st_size, "sha256": sha256_of(path)}
    except OSError:
        return None
