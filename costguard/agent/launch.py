"""How a training is started, as found out before the agent itself is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Launch:
    """How the training is started: its command line with the interpreter put in."""

    argv: Sequence[str]
    python: str | None
    umask: int
