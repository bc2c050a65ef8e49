"""The arithmetic of leases on the instance: pure, on the boot-time clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HEARTBEATS_REMEMBERED = 600
LONGEST_MS = 366 * 24 * 3600 * 1000
TOLD_AGAIN_MS = 10_000


@dataclass(frozen=True)
class Answer:
    """What became of a granted lease: `granted`, `kept` (nothing gained) or `refused`, and why.

    `worth_telling` is False for a renewal so small that the journal need not hold it.
    """

    state: str
    reason: str
    worth_telling: bool


class Leases:
    """Knows until when the training may run.

    A lease is counted from the *sending* of the heartbeat that it answers, so that a slow line
    can only shorten it. Every end reckoned so is a lower bound of the end that the daemon has
    reserved money for. Hence, conservatively:

    - an answer to a heartbeat that was not sent to the present reader, or so long ago that it is
      forgotten, is refused: from which moment it would count is not known;
    - the same id again keeps the later of the two ends: both are lower bounds, and an answer that
      was overtaken on its way must not cut a healthy run short;
    - another id replaces the lease, also by a shorter one: it is the daemon's latest word;
    - an end that has already passed is refused.
    """

    def __init__(self, lease_id: str | None = None, ends_at_ms: int | None = None) -> None:
        self.lease_id = lease_id
        self.ends_at_ms = ends_at_ms
        self.alone = False
        self.valid_ms = 0
        self._told_ms = ends_at_ms
        self._sent: deque[tuple[int, int]] = deque(maxlen=HEARTBEATS_REMEMBERED)

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Leases:
        """As an agent before this one has journalled it; of the same boot only."""
        leases = cls(record["id"], record["ends_boot_ms"])
        leases.alone = record.get("alone") is True
        leases.valid_ms = record.get("valid_ms") or 0
        return leases

    def in_force(self, now_ms: int) -> bool:
        """Whether a lease covers `now_ms`."""
        return self.ends_at_ms is not None and now_ms < self.ends_at_ms

    def heartbeat_sent(self, number: int, now_ms: int) -> None:
        """Remembers that heartbeat `number` was sent at `now_ms`."""
        self._sent.append((number, now_ms))

    def new_reader(self) -> None:
        """Forgets the heartbeats: only what was sent to the present reader can be answered."""
        self._sent.clear()

    def grant(
        self,
        lease_id: object,
        number: object,
        valid_ms: object,
        now_ms: int,
        *,
        alone: bool = False,
    ) -> Answer:
        """Puts a lease in force, or says why it does not.

        `alone`: whether the agent may give verdicts by itself under it, should the daemon fall
        silent; the daemon's latest word on that counts, also where the end stays as it was.
        """
        if not isinstance(lease_id, str) or not lease_id:
            return _refused("the lease has no id")
        if isinstance(valid_ms, bool) or not isinstance(valid_ms, int):
            return _refused(f"valid_ms is {valid_ms!r}, not a whole number")
        if not 0 < valid_ms <= LONGEST_MS:
            return _refused(f"valid_ms is {valid_ms}, out of bounds")
        sent_ms = next((at for sent, at in reversed(self._sent) if sent == number), None)
        if sent_ms is None:
            return _refused(f"heartbeat {number!r} was not sent to this reader, or long ago")
        ends_at_ms = sent_ms + valid_ms
        if ends_at_ms <= now_ms:
            return _refused("the lease had ended before it arrived")
        if lease_id == self.lease_id and ends_at_ms <= (self.ends_at_ms or 0):
            changed, self.alone = self.alone != alone, alone
            return Answer("kept", "the end in force is not earlier", worth_telling=changed)
        worth_telling = (
            lease_id != self.lease_id
            or alone != self.alone
            or self._told_ms is None
            or not self.in_force(now_ms)
            or ends_at_ms >= self._told_ms + TOLD_AGAIN_MS
        )
        self.lease_id, self.ends_at_ms = lease_id, ends_at_ms
        self.alone, self.valid_ms = alone, valid_ms
        if worth_telling:
            self._told_ms = ends_at_ms
        return Answer("granted", "", worth_telling)


def _refused(reason: str) -> Answer:
    return Answer("refused", reason, worth_telling=True)
