"""The agent in a rented machine, with its journal and its lease; and the training that it runs.

It counts its leases with the real arithmetic and keeps the dead man's switch, so that it is an
enforcer of its own. It lives in the machine: when that goes off, the agent is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.agent.leases import Leases
from costguard.sim.clock import NEVER_MS
from costguard.sim.script import BUSY_PERCENT, SAVED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.sim.faults import Faults
    from costguard.sim.script import Script

FIRST_LEASE_MS = 120_000
UNRECORDED = ("hang", "quiet", "vanish")


class Guest:
    """One machine's agent since it was switched on."""

    def __init__(
        self,
        script: Script,
        spec: Mapping[str, Any],
        faults: Faults,
        begun_ms: int,
        after_seq: int = 0,
    ) -> None:
        """`after_seq`: how many records earlier boots have left in the journal on its disk."""
        self.script, self.faults, self.begun_ms = script, faults, begun_ms
        self.alive = True
        self.after_seq = after_seq
        self.journal: list[dict[str, Any]] = []
        self.leases = Leases()
        self.launched_ms: int | None = None
        self.exited_ms: int | None = None
        self._grace_ms = int(float(spec["save_grace_s"]) * 1_000)
        self._window_ms = int(float(spec["telemetry"]["window_s"]) * 1_000)
        self._powers_off = spec["in_guest_stop"] is not None
        self._beat = 0
        self._dies_ms = NEVER_MS
        self._off_due_ms = begun_ms + FIRST_LEASE_MS
        self._stop_ids: set[str] = set()
        self._next_entry = 0
        self._next_window_ms = begun_ms + self._window_ms
        self._phase = ""
        self._mark = ""
        self._gap_until_ms = 0
        self._frozen: dict[str, Any] | None = None

    @property
    def is_training(self) -> bool:
        """Whether the training process lives."""
        return self.alive and self.launched_ms is not None and self.exited_ms is None

    # ------------------------------------------------------------------ time

    def next_ms(self) -> int:
        """When something happens here that others may notice: an exit, or the lease's end."""
        if not self.alive:
            return NEVER_MS
        if self.is_training:
            return min(self._dies_ms, self._ends_ms(), self._off_due_ms)
        return self._off_due_ms

    def _ends_ms(self) -> int:
        """When the training ends by itself."""
        if self._dies_ms != NEVER_MS or self.launched_ms is None:
            return NEVER_MS
        entries = self.script.entries
        if entries[-1][1] != "exit" or self._next_entry >= len(entries):
            return NEVER_MS
        return self.launched_ms + entries[-1][0]

    def wants_off(self, at_ms: int) -> bool:
        """Live up to `at_ms`; whether the agent switches its machine off now."""
        self.live(at_ms)
        if at_ms < self._off_due_ms:
            return False
        if self.is_training:
            if self._dies_ms == NEVER_MS:
                self._stop(at_ms, self._grace_ms)
            self._off_due_ms = self._dies_ms
            return False
        self._off_due_ms = at_ms + 60_000 if self._powers_off else NEVER_MS
        return self._powers_off

    def live(self, to_ms: int) -> None:
        """Write the journal up to `to_ms`."""
        while True:
            entry_ms = self._entry_ms()
            at_ms = min(entry_ms, self._next_window_ms, self._dies_ms)
            if at_ms > to_ms:
                return
            if at_ms == self._dies_ms:
                self._exit(at_ms, None if self.script.ignores_stop else SAVED)
            elif at_ms == entry_ms:
                self._take_entry(at_ms)
            else:
                self._next_window_ms += self._window_ms
                self._window(at_ms)

    def _entry_ms(self) -> int:
        if self.launched_ms is None or self.exited_ms is not None or self._dies_ms != NEVER_MS:
            return NEVER_MS
        if self._next_entry >= len(self.script.entries):
            return NEVER_MS
        return self.launched_ms + self.script.entries[self._next_entry][0]

    def _take_entry(self, at_ms: int) -> None:
        _, kind, fields = self.script.entries[self._next_entry]
        self._next_entry += 1
        if kind in UNRECORDED:
            self._mark = kind
            return
        if kind == "phase":
            self._phase = fields["phase"]
        elif kind == "exit":
            self.exited_ms = at_ms
        self._tell(kind, fields, at_ms)

    # ------------------------------------------------------------------ what the daemon sends

    def heartbeat(self, now_ms: int) -> dict[str, Any]:
        """The next heartbeat, sent now."""
        self._beat += 1
        self.leases.heartbeat_sent(self._beat, now_ms)
        return {"t": "heartbeat", "n": self._beat, "boot_ms": now_ms - self.begun_ms}

    def receive(self, message: Mapping[str, Any], now_ms: int) -> None:
        """One message of the daemon."""
        if message["t"] == "lease":
            answer = self.leases.grant(
                message["id"], message["heartbeat"], message["valid_ms"], now_ms
            )
            ends_ms = self.leases.ends_at_ms
            if answer.state == "refused" or ends_ms is None:
                return
            if self._dies_ms == NEVER_MS:
                self._off_due_ms = ends_ms
            if self.launched_ms is None and self.exited_ms is None and not self._stop_ids:
                self.launched_ms = now_ms
                self._tell("started", {"pid": 4711}, now_ms)
        elif message["t"] == "stop" and message["id"] not in self._stop_ids:
            self._stop_ids.add(message["id"])
            self._stop(now_ms, int(float(message["grace_s"]) * 1_000))

    def _stop(self, now_ms: int, grace_ms: int) -> None:
        if self.is_training:
            takes_ms = grace_ms
            if not self.script.ignores_stop and not self._mark:
                takes_ms = min(self.script.save_ms, grace_ms)
            self._dies_ms = min(self._dies_ms, now_ms + takes_ms)
        elif self.launched_ms is None and self.exited_ms is None:
            self._exit(now_ms, None)

    def _exit(self, at_ms: int, code: int | None) -> None:
        self.exited_ms, self._dies_ms = at_ms, NEVER_MS
        signal = 9 if code is None else None
        fields: dict[str, Any] = {"code": code, "signal": signal, "artifact": None, "log_tail": []}
        self._tell("exit", {**fields, "stop_id": "stop"}, at_ms)

    # ------------------------------------------------------------------ telemetry

    def _window(self, at_ms: int) -> None:
        """One telemetry window, unless sampling has a gap; now and then with nonsense in it."""
        if self.faults.comes("telemetry_gap", self._window_ms):
            self._gap_until_ms = at_ms + self.faults.between(60, 3_600) * 1_000
        if at_ms < self._gap_until_ms:
            return
        training = self.is_training
        busy = training and self._phase == "train" and self._mark in ("", "hang")
        works = training and self._mark in ("", "hang")
        percent: float = BUSY_PERCENT if busy else 0
        if self.faults.comes("telemetry_nan", self._window_ms):
            percent = float("nan")
        gone = not training or self._mark == "vanish"
        job = {"cpu_cores": 0.9 if works else 0.0, "processes": 0 if gone else 2}
        fields: dict[str, Any] = {"cards": [{"util_max": percent}], "job": job}
        if self._frozen is not None:
            fields = self._frozen
        elif self.faults.comes("telemetry_frozen", self._window_ms):
            self._frozen = fields
        state = {"window_s": self._window_ms / 1_000, "nvml": {"state": "ok"}}
        self._tell("gpu", {**state, **fields}, at_ms)

    def _tell(self, kind: str, fields: Mapping[str, Any], at_ms: int) -> None:
        numbers = {"seq": self.after_seq + len(self.journal) + 1, "boot_ms": at_ms - self.begun_ms}
        self.journal.append({"t": kind, **numbers, **fields})
