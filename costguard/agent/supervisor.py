"""Decides what happens to the training: lease, stop, dead man's switch, exit.

Level-triggered: `step()` looks at the clock and at what has become known, and brings the
training to where it belongs. It never blocks, and whoever reads the telemetry cannot hold it up.
"""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from costguard.agent.guest_stop import GuestStop
from costguard.agent.tail import LogTail, last_lines, shed_middle
from costguard.agent.training import Ended, Training

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from costguard.agent.alone import Alone
    from costguard.agent.artifacts import ArtifactWatcher
    from costguard.agent.clock import Clock
    from costguard.agent.journal import Journal
    from costguard.agent.leases import Leases
    from costguard.agent.patterns import LineProgress
    from costguard.agent.progress import ProgressWatcher
    from costguard.agent.spec import Spec

LINGER_MS = 10_000
ARTIFACT_WAIT_MS = 1_000
LONGEST_GRACE_S = 24 * 3600
TAIL_LINES = 40
POLL_MS = 200
LOG_POLL_MS = 1_000


@dataclass
class Stop:
    """A stop under way: the leader has its SIGTERM, and at `kill_at_ms` the group dies."""

    id: str
    why: str
    kill_at_ms: int
    killed: bool = False


@dataclass(frozen=True)
class Watchers:
    """Those who look at the files that the training writes."""

    progress: ProgressWatcher
    artifacts: ArtifactWatcher
    log: LogTail
    log_path: Path
    pattern: LineProgress | None = None


class Supervisor:
    """One run, from the first lease to the end of the last.

    `launch` starts the training and returns the fields of its `started` message; it may raise
    OSError. `gauges` returns the fields of a `gpu` message.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        clock: Clock,
        journal: Journal,
        training: Training,
        watchers: Watchers,
        leases: Leases,
        alone: Alone,
        launch: Callable[[], Mapping[str, Any]],
        gauges: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._spec = spec
        self._clock = clock
        self._journal = journal
        self._training = training
        self._watch = watchers
        self._leases = leases
        self._alone = alone
        self._launch = launch
        self._gauges = gauges
        self._guest_stop = None if spec.in_guest_stop is None else GuestStop(spec.in_guest_stop)
        if self._guest_stop is not None:
            training.not_ours = self._guest_stop.pids
        self._faults: set[str] = set()
        self._stop: Stop | None = None
        self._stop_ids: set[str] = set()
        self._ended: Ended | None = None
        self._exit_due_ms = 0
        self._exit_reported = False
        self._lease_end_told = False
        self._quit_after_exit = False
        now_ms = clock.boot_ms()
        self._begun_ms = now_ms
        self._heartbeat = now_ms
        self._heartbeat_due_ms = now_ms
        self._poll_due_ms = self._log_due_ms = now_ms
        self._window_due_ms = now_ms + self._ms(spec.window_s)

    @property
    def state(self) -> str:
        """`waiting` for the first lease, `running`, or `exited` once the exit was reported."""
        if self._exit_reported:
            return "exited"
        if self._training.running or self._ended is not None:
            return "running"
        return "waiting"

    @property
    def done(self) -> bool:
        """Whether the agent may end: nothing runs, nothing is leased, nothing can be stopped."""
        if self._training.running or (self._ended is not None and not self._exit_reported):
            return False
        if self._quit_after_exit:
            return True
        now_ms = self._clock.boot_ms()
        if self._guest_stop is not None or self._leases.in_force(now_ms):
            return False
        return now_ms >= self._covered_until_ms() + LINGER_MS

    def resume(self, stopping: Mapping[str, Any] | None, *, exited: bool) -> None:
        """Goes on where an agent before this one left off."""
        self._exit_reported = exited
        if stopping is not None:
            self._stop_ids.add(str(stopping["id"]))
            if self._training.running:
                self._stop = Stop(stopping["id"], stopping["why"], stopping["kill_at_boot_ms"])

    def end_unseen(self, detail: str) -> None:
        """Records the end of a training that nobody watched; its exit code is not known."""
        now_ms = self._clock.boot_ms()
        self._ended = Ended(None, None, self._clock.utc_ms(), now_ms, detail)
        self._exit_due_ms = now_ms + ARTIFACT_WAIT_MS

    def retire(self) -> bool:
        """Has the agent end, to make way for the next run; refused while the training runs."""
        if self.state == "running":
            return False
        self._quit_after_exit = True
        return True

    def new_reader(self) -> None:
        """Forgets what was sent to the reader before: only its own heartbeats can be answered."""
        self._leases.new_reader()
        self._alone.heard(self._clock.boot_ms())

    def receive(self, message: Mapping[str, Any]) -> None:
        """Takes one message from the daemon; what is not understood is left alone."""
        self._alone.heard(self._clock.boot_ms())
        kind = message.get("t")
        if kind == "lease":
            self._receive_lease(message)
        elif kind == "stop":
            self._receive_stop(message)
        elif kind == "ack" and isinstance(message.get("seq"), int):
            self._journal.forget(message["seq"])

    def terminated(self) -> None:
        """The machine wants the agent gone (SIGTERM): save, then end."""
        self._quit_after_exit = True
        if self._training.running:
            self._begin_stop("agent-terminated", "agent", self._grace_s(), save=True)

    def heartbeat(self, *, at_once: bool = False) -> dict[str, Any] | None:
        """The next heartbeat when it is due, counted as sent now; else None.

        Numbers start at the boot-time clock, so that an agent that was restarted does not use
        the numbers of the one before it.
        """
        now_ms = self._clock.boot_ms()
        if now_ms < self._heartbeat_due_ms and not at_once:
            return None
        self._heartbeat_due_ms = now_ms + self._ms(self._spec.heartbeat_s)
        self._heartbeat += 1
        self._leases.heartbeat_sent(self._heartbeat, now_ms)
        return {
            "t": "heartbeat",
            "n": self._heartbeat,
            "boot_ms": now_ms,
            "at_ms": self._clock.utc_ms(),
            "training": self.state,
            "last_seq": self._journal.last_seq,
            "journal_ok": self._journal.ok,
            "journal_dropped": self._journal.dropped,
            "lease_id": self._leases.lease_id,
            "lease_ends_boot_ms": self._leases.ends_at_ms,
        }

    def wait_s(self) -> float:
        """How long nothing is due."""
        due_ms = [self._poll_due_ms, self._heartbeat_due_ms, self._window_due_ms]
        if self._stop is not None and not self._stop.killed and self._training.running:
            due_ms.append(self._stop.kill_at_ms)
        if self._leases.ends_at_ms is not None and not self._lease_end_told:
            due_ms.append(self._leases.ends_at_ms)
        return max(0.0, (min(due_ms) - self._clock.boot_ms()) / 1000)

    def step(self) -> None:
        """Brings everything up to the present moment."""
        now_ms = self._clock.boot_ms()
        self._training.reap_orphans()
        self._collect_end(now_ms)
        self._mind_the_lease(now_ms)
        self._mind_the_stop(now_ms)
        if now_ms >= self._poll_due_ms or self._ended is not None:
            self._poll_due_ms = now_ms + (POLL_MS if self._training.running else LOG_POLL_MS)
            self._guarded("output", self._poll_output)
        if now_ms >= self._log_due_ms:
            self._log_due_ms = now_ms + LOG_POLL_MS
            self._guarded("log", self._poll_log)
        if now_ms >= self._window_due_ms:
            self._window_due_ms = now_ms + self._ms(self._spec.window_s)
            self._watch.log.next_window()
            self._guarded("gauges", lambda: self._tell("gpu", self._gauges()))
        self._report_exit(now_ms)
        self._journal.flush()

    def _receive_lease(self, message: Mapping[str, Any]) -> None:
        now_ms = self._clock.boot_ms()
        answer = self._leases.grant(
            message.get("id"),
            message.get("heartbeat"),
            message.get("valid_ms"),
            now_ms,
            alone=message.get("alone") is True,
        )
        if answer.state == "granted":
            self._lease_end_told = False
        if answer.worth_telling:
            told = {"state": answer.state, "id": message.get("id"), "reason": answer.reason}
            told |= {"ends_boot_ms": self._leases.ends_at_ms, "alone": self._leases.alone}
            self._tell("lease", {**told, "valid_ms": self._leases.valid_ms})
        if answer.state == "granted" and self.state == "waiting":
            self._start()

    def _start(self) -> None:
        """Starts the training, at most once: the lease is on the disk before the process is.

        An agent that finds a lease but no `started` in its journal does not start again.
        """
        if self._stop_ids or self._quit_after_exit:
            return
        self._journal.flush(wait_s=2.0)
        try:
            self._tell("started", self._launch())
            self._journal.flush(wait_s=2.0)
        except OSError as error:
            self.end_unseen(f"cannot start the training: {error}")

    def _receive_stop(self, message: Mapping[str, Any]) -> None:
        stop_id, grace_s = message.get("id"), message.get("grace_s")
        if not isinstance(stop_id, str) or stop_id in self._stop_ids:
            return
        if isinstance(grace_s, bool) or not isinstance(grace_s, (int, float)):
            grace_s = self._spec.save_grace_s
        self._begin_stop(stop_id, "daemon", grace_s, save=message.get("save") is not False)

    def _begin_stop(self, stop_id: str, why: str, grace_s: float, *, save: bool) -> None:
        """SIGTERM to the leader, or with `save` False SIGKILL to the group at once.

        A second stop under way never sends a second SIGTERM, which would mean "exit now" and
        lose the save: it can only bring the kill forward.
        """
        self._stop_ids.add(stop_id)
        now_ms = self._clock.boot_ms()
        bounded_s = min(max(grace_s, 0), LONGEST_GRACE_S) if save else 0
        kill_at_ms = now_ms + self._ms(bounded_s)
        under_way = self._stop
        if under_way is not None:
            kill_at_ms = min(kill_at_ms, under_way.kill_at_ms)
        told = {"id": stop_id, "why": why, "save": save, "kill_at_boot_ms": kill_at_ms}
        if self._training.running:
            killed = under_way is not None and under_way.killed
            self._stop = Stop(stop_id, why, kill_at_ms, killed)
            if under_way is None and save:
                self._training.terminate()
            self._tell("stopping", told)
        elif self.state == "waiting":
            self._tell("stopping", told)
            self.end_unseen("stopped before it had begun")

    def _collect_end(self, now_ms: int) -> None:
        ended = self._training.collect()
        if ended is not None:
            self._ended = ended
            self._exit_due_ms = now_ms + ARTIFACT_WAIT_MS

    def _covered_until_ms(self) -> int:
        if self._leases.ends_at_ms is not None:
            return max(self._leases.ends_at_ms, self._begun_ms)
        return self._begun_ms + self._ms(self._spec.first_lease_s)

    def _mind_the_lease(self, now_ms: int) -> None:
        """The dead man's switch: without a lease, save, end, and power off."""
        if self._guest_stop is not None:
            for message in self._guest_stop.poll():
                self._tell("in_guest_stop", message)
        if self._leases.in_force(now_ms) or now_ms < self._covered_until_ms():
            self._guarded("verdict", lambda: self._mind_being_alone(now_ms))
            self._save_in_time(now_ms)
            return
        if not self._lease_end_told:
            self._lease_end_told = True
            self._tell("lease", {"state": "expired", **self._lease_end()})
        if self._training.running:
            if self._stop is None:
                stop_id = f"lease-end-{self._leases.lease_id}"
                self._begin_stop(stop_id, "lease", self._grace_s(), save=True)
        elif self._guest_stop is not None and (self._exit_reported or self.state == "waiting"):
            self._append_if("in_guest_stop", self._guest_stop.run(now_ms))

    def _mind_being_alone(self, now_ms: int) -> None:
        """Judges the run where the daemon is silent and the lease allows it; then powers off.

        A daemon that is heard again takes over: it fetches what is missing, and stops the
        instance through the platform.
        """
        if not self._alone.holds(now_ms, self._leases):
            return
        is_new = self._alone.judge(now_ms)
        verdict = self._alone.verdict
        if verdict is None:
            return
        if is_new:
            powers_off = self._guest_stop is not None
            self._tell("verdict", {**asdict(verdict), "by": "agent", "powers_off": powers_off})
        if self._training.running:
            if self._stop is None:
                stop_id = f"alone-{verdict.reason}"
                self._begin_stop(stop_id, "verdict", self._grace_s(), save=verdict.save)
        elif self._guest_stop is not None and self._exit_reported:
            self._append_if("in_guest_stop", self._guest_stop.run(now_ms))

    def _save_in_time(self, now_ms: int) -> None:
        """Begins before the lease's end where saves here are known to outlast the grace."""
        ends_at_ms, ordered_ms = self._leases.ends_at_ms, self._ms(self._spec.save_grace_s)
        lead_ms = self._alone.saves.lead_ms(ordered_ms, self._leases.valid_ms)
        if ends_at_ms is None or now_ms < ends_at_ms - lead_ms or self._stop is not None:
            return
        if self._training.running:
            grace_s = self._spec.save_grace_s + (ends_at_ms - now_ms) / 1000
            stop_id = f"lease-end-{self._leases.lease_id}"
            self._begin_stop(stop_id, "lease", grace_s, save=True)

    def _grace_s(self) -> float:
        """How long a save that we ask for ourselves may take, by those seen before."""
        return self._alone.saves.grace_ms(self._ms(self._spec.save_grace_s)) / 1000

    def _lease_end(self) -> dict[str, Any]:
        reason = "" if self._leases.lease_id else "no lease came in time"
        if self._guest_stop is None:
            reason += "; no in-guest stop is set: the machine stays on"
        return {
            "id": self._leases.lease_id,
            "reason": reason.removeprefix("; "),
            "ends_boot_ms": self._covered_until_ms(),
        }

    def _mind_the_stop(self, now_ms: int) -> None:
        stop = self._stop
        if stop is None or stop.killed or now_ms < stop.kill_at_ms or not self._training.running:
            return
        stop.killed = True
        self._training.kill()
        told = {"id": stop.id, "why": "grace_over", "save": False}
        self._tell("stopping", {**told, "kill_at_boot_ms": stop.kill_at_ms})

    def _poll_log(self, *, final: bool = False) -> None:
        self._append_if("log", self._watch.log.poll(final=final))
        shed_middle(self._watch.log_path)
        if self._watch.pattern is not None:
            for fields in self._watch.pattern.feed(self._watch.log.take_read()):
                if self._alone.facts.phase != "train":
                    self._tell("phase", {"phase": "train", "inferred": True})
                self._tell("progress", fields)

    def _poll_output(self, *, final: bool = False) -> None:
        if self._training.pid is None and self._ended is None:
            return
        for kind, fields in self._watch.progress.poll(final=final):
            self._tell(kind, fields)
        for record in self._watch.artifacts.poll(final=final):
            self._tell("checkpoint", record)

    def _report_exit(self, now_ms: int) -> None:
        """Sends `exit` once the last artifacts are verified, or after a second without them."""
        if self._ended is None or self._exit_reported:
            return
        self._guarded("output", lambda: self._poll_output(final=True))
        if not self._watch.artifacts.idle and now_ms < self._exit_due_ms:
            return
        self._guarded("log", lambda: self._poll_log(final=True))
        ended, stop = self._ended, self._stop
        self._tell(
            "exit",
            {
                "code": ended.code,
                "signal": ended.signal,
                "detail": ended.detail,
                "ended_at_ms": ended.ended_at_ms,
                "ended_boot_ms": ended.ended_boot_ms,
                "stop_id": None if stop is None else stop.id,
                "killed": stop is not None and stop.killed,
                "artifact": self._watch.artifacts.adapter,
                "artifact_pending": not self._watch.artifacts.idle,
                "log_tail": last_lines(self._watch.log_path, TAIL_LINES),
            },
        )
        self._exit_reported = True

    def _guarded(self, where: str, call: Callable[[], object]) -> None:
        """Calls what only watches. If it fails, that is told, and the dead man's switch lives."""
        try:
            call()
        except Exception as error:  # noqa: BLE001  whatever it is, supervision goes on
            detail = f"{type(error).__name__}: {error}"
            if detail not in self._faults:
                traceback.print_exc()
                self._tell("fault", {"where": where, "detail": detail})
            self._faults.add(detail)

    def _append_if(self, kind: str, fields: Mapping[str, Any] | None) -> None:
        if fields is not None:
            self._tell(kind, fields)

    def _tell(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Journals a message, and takes it in as the daemon will."""
        self._journal.append(kind, fields)
        self._alone.take(kind, fields, self._clock.boot_ms())

    @staticmethod
    def _ms(seconds: float) -> int:
        return round(seconds * 1000)
