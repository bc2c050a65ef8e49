"""What the agent concludes by itself, by the daemon's own guards, while the daemon is silent.

Only under a lease that allows it (`"alone": true`): such a lease may last as long as the budget,
so that a sleeping laptop does not end a healthy run; but then nobody else would see that the run
has finished, failed, stalled or gone idle.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from costguard.agent.saves import SaveTimes
from costguard.core.guards import judge_alone
from costguard.core.snapshot import TrainingFacts, Verdict
from costguard.core.training import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from costguard.agent.leases import Leases
    from costguard.core.spec import GuardLimits

JUDGE_MS = 1_000


class Alone:
    """Folds what the agent tells, and judges it when nobody else does.

    `verdict` is kept once given: its evidence was seen, and a daemon that comes back reads it in
    the journal.
    """

    def __init__(self, limits: GuardLimits, now_ms: int, expects_adapter: bool) -> None:  # noqa: FBT001  as the order says it
        self.facts = TrainingFacts()
        self.saves = SaveTimes()
        self.verdict: Verdict | None = None
        self._limits = limits
        self._expects_adapter = expects_adapter
        self._heard_ms = now_ms
        self._judge_due_ms = now_ms

    def take(self, kind: str, fields: Mapping[str, Any], at_ms: int) -> None:
        """Takes in one message that goes up."""
        self.facts = fold(self.facts, {**fields, "t": kind, "boot_ms": at_ms})
        self.saves.take(kind, fields, at_ms)

    def heard(self, now_ms: int) -> None:
        """The daemon has said something."""
        self._heard_ms = now_ms

    def holds(self, now_ms: int, leases: Leases) -> bool:
        """Whether the agent is to judge: it may, it is leased, and the daemon is silent."""
        silent = now_ms - self._heard_ms >= self._limits.silent_after_ms
        return leases.alone and leases.in_force(now_ms) and silent

    def judge(self, now_ms: int) -> bool:
        """Whether a verdict has been given just now; looks once a second at most."""
        if self.verdict is not None or now_ms < self._judge_due_ms:
            return False
        self._judge_due_ms = now_ms + JUDGE_MS
        self.facts = fold(self.facts, {"t": "heartbeat", "boot_ms": now_ms})
        self.verdict = judge_alone(self.facts, self._limits, expects_adapter=self._expects_adapter)
        return self.verdict is not None

    def remember(self, records: Iterable[tuple[str, bytes]], run_id: str | None) -> None:
        """Learns from the journal: saves of all runs here, and the facts of the one adopted."""
        mine = False
        for kind, line in records:
            record = _parse(line)
            if record is None:
                continue
            at_ms = record["boot_ms"]
            self.saves.take(kind, record, at_ms)
            if kind == "hello":
                again = mine and record.get("run_id") == run_id
                mine = record.get("run_id") == run_id
                if not again:
                    self.facts, self.verdict = TrainingFacts(), None
            elif mine:
                self.facts = fold(self.facts, record)
                if kind == "verdict":
                    self.verdict = _verdict(record)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    valid = isinstance(record, dict) and isinstance(record.get("boot_ms"), int)
    return record if valid else None


def _verdict(record: Mapping[str, Any]) -> Verdict:
    evidence = record.get("evidence")
    return Verdict(
        str(record.get("reason")),
        str(record.get("text")),
        dict(evidence) if isinstance(evidence, dict) else {},
        save=record.get("save") is not False,
    )
