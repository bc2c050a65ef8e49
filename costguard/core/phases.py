"""How long each phase of a job may be silent, how long it may last, and what counts as life in it.

A four-hour download is no stall, a silent one is: what is waited for is the last sign of life,
and each phase has its own. GPU load is a sign in hardly any of them, because a hung collective
shows 100 % too; CPU time is one only where computing on the CPU is the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.core.snapshot import TrainingFacts

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Patience:
    """`quiet_ms` without one of `signs`, or `whole_ms` in all (None: as long as money lasts).

    Always signs: a progress line, and a change of `status.json`.
    """

    quiet_ms: int
    whole_ms: int | None
    signs: tuple[str, ...] = ()


PATIENCE: Mapping[str, Patience] = {
    # Until something tells of a phase: a command that never does so is watched by this alone.
    "start": Patience(10 * MINUTE_MS, None, ("bytes", "cpu", "gpu", "log")),
    "install": Patience(10 * MINUTE_MS, HOUR_MS, ("bytes", "cpu", "log")),
    "download": Patience(10 * MINUTE_MS, 12 * HOUR_MS, ("bytes",)),
    "tokenise": Patience(15 * MINUTE_MS, 4 * HOUR_MS, ("bytes", "cpu")),
    "load": Patience(15 * MINUTE_MS, HOUR_MS, ("bytes", "cpu")),
    "compile": Patience(15 * MINUTE_MS, HOUR_MS, ("cpu",)),
    "evaluate": Patience(30 * MINUTE_MS, 4 * HOUR_MS, ("log",)),
    "save": Patience(10 * MINUTE_MS, 30 * MINUTE_MS, ("bytes",)),
    # The trainer has said that it is through, and its process is still there.
    "done": Patience(5 * MINUTE_MS, 30 * MINUTE_MS, ("bytes",)),
    "stopped": Patience(5 * MINUTE_MS, 30 * MINUTE_MS, ("bytes",)),
    "failed": Patience(5 * MINUTE_MS, 30 * MINUTE_MS, ("bytes",)),
}
OTHER_PATIENCE = Patience(30 * MINUTE_MS, 4 * HOUR_MS, ("bytes", "cpu", "log"))


def patience_for(phase: str | None) -> Patience:
    """What a phase other than training is allowed; one that we do not know is given much."""
    return PATIENCE.get(phase or "", OTHER_PATIENCE)


def last_sign_ms(facts: TrainingFacts, signs: tuple[str, ...]) -> int | None:
    """When the job last showed life by one of `signs`, a progress line or its status."""
    found = [facts.signs.progress_ms, facts.signs.status_ms]
    if facts.steps:
        found.append(facts.steps[-1].at_ms)
    found += [getattr(facts.signs, f"{sign}_ms") for sign in signs]
    known = [at for at in found if at is not None]
    return max(known) if known else None
