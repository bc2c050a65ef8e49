"""How long a save takes here, learned from those that were seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SAVED_ON_REQUEST = 75
LEAST_GRACE_MS = 20_000
# A save under pressure (a disk that fills, a step that compiles) is slower than those before.
GRACE_FACTOR = 3
LONGEST_LEAD_MS = 300_000


class SaveTimes:
    """The longest save of this directory's runs, and what follows from it for the next.

    Two kinds are seen: a `save` phase from its beginning to the next phase, and the way from
    SIGTERM to an exit with 75, which holds the rest of an optimizer step as well.
    """

    def __init__(self) -> None:
        self.longest_ms: int | None = None
        self._phase_since_ms: int | None = None
        self._asked_ms: int | None = None

    def take(self, kind: str, fields: Mapping[str, Any], at_ms: int) -> None:
        """Looks at one message."""
        if kind in ("hello", "started"):
            self._phase_since_ms = self._asked_ms = None
        elif kind == "phase":
            self._note(self._phase_since_ms, at_ms)
            self._phase_since_ms = at_ms if fields.get("phase") == "save" else None
        elif kind == "stopping" and fields.get("save") and self._asked_ms is None:
            self._asked_ms = at_ms
        elif kind == "exit":
            if fields.get("code") == SAVED_ON_REQUEST and isinstance(
                fields.get("ended_boot_ms"), int
            ):
                self._note(self._asked_ms, fields["ended_boot_ms"])
            self._phase_since_ms = self._asked_ms = None

    def grace_ms(self, ordered_ms: int) -> int:
        """How long a save may take before the kill: never more than the order has paid for."""
        if self.longest_ms is None:
            return ordered_ms
        return min(ordered_ms, max(LEAST_GRACE_MS, GRACE_FACTOR * self.longest_ms))

    def lead_ms(self, ordered_ms: int, valid_ms: int) -> int:
        """How long before a lease's end to begin, where saves are seen to outlast the grace.

        At most a quarter of the lease: it is renewed at half.
        """
        lacking = (self.longest_ms or 0) - ordered_ms
        return max(0, min(lacking, LONGEST_LEAD_MS, valid_ms // 4))

    def _note(self, since_ms: int | None, until_ms: int) -> None:
        if since_ms is not None and until_ms >= since_ms:
            self.longest_ms = max(self.longest_ms or 0, until_ms - since_ms)
