"""What the shell offers after a TAB, beyond the names of commands and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def job_names(incomplete: str) -> list[str]:
    """Jobs whose names begin so, the newest first; none where nobody can tell.

    A TAB is no place for an error.
    """
    from costguard.cli.client import ask
    from costguard.errors import UserError

    try:
        rows = ask("status", {})["jobs"]
    except UserError:
        return []
    return [row["job"] for row in rows if row["job"].startswith(incomplete)]


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Those of `words` that begin as what was typed."""

    def completed(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return completed
