"""What is told to a person, and which of the daemon's events it is told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

REPEAT_MS = 600_000  # what goes on and on is told again so often, and no oftener
CAP_PERCENTS = (95, 80, 50)

# Told at any hour: while these go on, money runs that somebody could still keep.
URGENT = frozenset(
    {
        "attestation_contradicted",
        "breach",
        "cap_95",
        "ledger_head",
        "low_balance",
        "orphan",
        "overrun",
        "running_without_lease",
        "stop_not_confirmed",
    }
)
ENDED = ("paused", "finished", "failed")
# The daemon's event, and the kind of notice that it becomes.
KINDS: Mapping[str, str] = {
    "training_started": "started",
    "stage_done": "stage_done",
    "will_not_fit": "will_not_fit",
    "stop_not_confirmed": "stop_not_confirmed",
    "running_without_lease": "running_without_lease",
    "overrun": "overrun",
    "breach": "breach",
    "stray": "orphan",
    "orphan": "orphan",
    "price_changed": "price_changed",
    "drift": "drift",
    "blind": "blind",
    "release_clock": "release_clock",
    "disk_kept": "disk_kept",
    "released": "released",
    "low_balance": "low_balance",
    "attestation_contradicted": "attestation_contradicted",
    "assumed_run": "assumed_run",
    "reuse_ended": "reuse_ended",
    "ledger_head": "ledger_head",
}
REPEATED = frozenset({"stop_not_confirmed", "running_without_lease", "overrun", "drift", "orphan"})


@dataclass(frozen=True, slots=True)
class Found:
    """One notice to be: the same key is told once."""

    kind: str
    key: str


def notice_of(
    event_id: int, job_id: int | None, at_ms: int, event: str, data: Any, text: str
) -> Found | None:
    """The notice that an event of the daemon becomes, or None for what nobody has to be told."""
    if event == "state" and text in ENDED:
        return Found("ended", f"event:{event_id}")
    if event == "verdict":
        blind = isinstance(data, dict) and data.get("guard") == "blind"
        return Found("blind", f"event:{event_id}") if blind else None
    kind = KINDS.get(event)
    if kind is None:
        return None
    if kind in REPEATED:
        return Found(kind, f"{kind}:{job_id}:{at_ms // REPEAT_MS}")
    return Found(kind, f"event:{event_id}")
