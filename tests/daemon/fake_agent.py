"""The instance's side in memory: an agent with a scripted training, and the link to it.

The agent counts its leases with the real arithmetic and keeps the dead man's switch, so that it
is an enforcer of its own. It lives in the machine: when that goes off, the agent is gone, and its
journal stays on the disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from costguard.agent.alone import Alone
from costguard.agent.leases import Leases
from costguard.core.spec import GuardLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from costguard.remote.link import LinkPlan
    from tests.daemon.fake_clock import FakeClock
    from tests.daemon.fake_cloud import FakeCloud, Machine

HEARTBEAT_MS = 1_000
WINDOW_MS = 1_000
SAVED = 75
CONTENT = b"adapter!"  # of each file of each artifact


@dataclass
class Script:
    """What the training does from its launch on."""

    steps: int = 5
    step_ms: int = 1_000
    hangs_at: int | None = None  # no step after this one
    quiet: bool = False  # no CPU time while it hangs
    vanishes: bool = False  # its processes are gone while it hangs, and no exit is seen
    exit_code: int = 0
    log_tail: tuple[str, ...] = ()
    adapter: bool = False
    checkpoint_at: int | None = None
    losses: Mapping[int, float | None] = field(default_factory=dict)
    save_ms: int = 1_000
    ignores_stop: bool = False
    prepare_ms: int = 1_000
    first_lease_ms: int = 120_000


class FakeAgent:
    """One machine's agent, with its journal on the machine's disk."""

    def __init__(
        self,
        machine: Machine,
        script: Script,
        cloud: FakeCloud,
        spec: Mapping[str, Any],
        journal: list[dict[str, Any]],
    ) -> None:
        self.machine, self.script, self.cloud = machine, script, cloud
        self.spec = spec
        self.journal = journal  # of the job's folder: an earlier attempt's records come first
        self.leases = Leases()
        limits = GuardLimits(**spec["guards"])
        self.alone = Alone(limits, cloud.clock.true_ms, spec["expects_adapter"])
        self.begun_ms = cloud.clock.true_ms
        self.launched_ms: int | None = None
        self.exited_ms: int | None = None
        self.dies_ms: int | None = None  # when a training that was told to stop has ended
        self.alive = True
        self.beat = 1_000_000
        self.steps_done = 0
        self.lease_ends: list[tuple[int, int]] = []  # (granted at, ends at), true ms
        self.stops: list[int] = []
        self._stop_ids: set[str] = set()
        self._above = 0
        self._now_ms = self.begun_ms
        self._window_due_ms = self.begun_ms + WINDOW_MS

    @property
    def training(self) -> bool:
        """Whether the training process lives."""
        return self.alive and self.launched_ms is not None and self.exited_ms is None

    def power_off(self) -> None:
        """The machine goes off: everything in it ends, unseen."""
        self.alive = False

    def after_reboot(self) -> FakeAgent:
        """The agent started anew on the same order: it tells what it finds, and starts nothing."""
        agent = FakeAgent(self.machine, self.script, self.cloud, self.spec, self.journal)
        agent.launched_ms, agent.steps_done = self.launched_ms, self.steps_done
        agent.exited_ms = self.exited_ms
        if agent.launched_ms is not None and agent.exited_ms is None:
            agent._exit(None)
        return agent

    def renumber_above(self, after_seq: int) -> None:
        """As the real one for a reader that knows higher numbers: it tells its own above them."""
        if self._last_seq < after_seq:
            for number, record in enumerate(self.journal, after_seq + 1):
                record["seq"] = number
            self._above = after_seq

    @property
    def _last_seq(self) -> int:
        return int(self.journal[-1]["seq"]) if self.journal else self._above

    def heartbeat(self) -> dict[str, Any]:
        """The next heartbeat, counted as sent now."""
        self.beat += 1
        self.leases.heartbeat_sent(self.beat, self._now_ms)
        return {"t": "heartbeat", "n": self.beat, "boot_ms": self._now_ms}

    def receive(self, message: Mapping[str, Any]) -> None:
        """What the daemon sends."""
        now_ms = self._now_ms
        if message["t"] == "lease":
            answer = self.leases.grant(
                message["id"],
                message["heartbeat"],
                message["valid_ms"],
                now_ms,
                alone=message["alone"],
            )
            assert answer.state != "refused", answer.reason
            assert self.leases.ends_at_ms is not None
            self.lease_ends.append((now_ms, self.leases.ends_at_ms))
            if self.launched_ms is None and self.exited_ms is None and not self._stop_ids:
                self.launched_ms = now_ms
                self._tell("started", {"pid": 4711})
                self._tell("phase", {"phase": "train"})
        self.alone.heard(now_ms)
        if message["t"] == "stop" and message["id"] not in self._stop_ids:
            self._stop_ids.add(message["id"])
            self._stop(float(message["grace_s"]))

    def tick(self) -> None:
        """Live up to the present, event by event."""
        end_ms = self.cloud.clock.true_ms
        while self.alive and self._now_ms < end_ms:
            self._now_ms = min(self._now_ms + 100, end_ms)
            self._live()

    def _live(self) -> None:
        now_ms, script = self._now_ms, self.script
        if self.training and self.launched_ms is not None:
            if self.dies_ms is not None and now_ms >= self.dies_ms:
                self._exit(SAVED if not script.ignores_stop else None)
            elif self.dies_ms is None:
                self._train((now_ms - self.launched_ms) // script.step_ms)
        if now_ms >= self._window_due_ms:
            self._window_due_ms += WINDOW_MS
            self._window()
        if self.alone.holds(now_ms, self.leases):
            self._judge(now_ms)
        covered_ms = self.leases.ends_at_ms or self.begun_ms + script.first_lease_ms
        if now_ms < covered_ms:
            return
        if self.training:
            self._stop(float(self.spec["save_grace_s"]))
        elif self.spec["in_guest_stop"] is not None:
            self.cloud.guest_power_off(self.machine)

    def _judge(self, now_ms: int) -> None:
        """The real guards, as the real agent asks them while the daemon is silent."""
        given = self.alone.judge(now_ms)
        verdict = self.alone.verdict
        if verdict is None:
            return
        if given:
            self._tell("verdict", {**asdict(verdict), "by": "agent", "powers_off": True})
        if self.training and self.dies_ms is None:
            self._stop(float(self.spec["save_grace_s"]))
        elif not self.training and self.spec["in_guest_stop"] is not None:
            self.cloud.guest_power_off(self.machine)

    def _train(self, due: int) -> None:
        script = self.script
        last = script.steps if script.hangs_at is None else script.hangs_at
        while self.steps_done < min(due, last):
            self.steps_done += 1
            step = self.steps_done
            loss = script.losses.get(step, 3.0 / step)
            fields = {"step": step, "total_steps": script.steps, "loss": loss}
            self._tell("progress", {**fields, "nonfinite": ["loss"] if loss is None else []})
            if step == script.checkpoint_at:
                self._tell("checkpoint", _artifact(f"checkpoint-{step}", "checkpoint", step))
        if script.hangs_at is None and due > script.steps:
            self._exit(script.exit_code)

    def _stop(self, grace_s: float) -> None:
        self.stops.append(self._now_ms)
        if not self.training:
            if self.launched_ms is None and self.exited_ms is None:
                self._exit(None, began=False)
            return
        grace_ms = int(grace_s * 1_000)
        takes_ms = grace_ms if self.script.ignores_stop else min(self.script.save_ms, grace_ms)
        due_ms = self._now_ms + takes_ms
        self.dies_ms = due_ms if self.dies_ms is None else min(self.dies_ms, due_ms)

    def _exit(self, code: int | None, *, began: bool = True) -> None:
        self.exited_ms = self._now_ms
        done = code == 0 and self.script.adapter
        artifact = _artifact("adapter", "adapter", self.steps_done) if done else None
        fields: dict[str, Any] = {
            "code": code,
            "signal": 9 if code is None else None,
            "artifact": artifact,
        }
        if not began:  # as the agent tells it of what never ran
            fields |= {"signal": None, "detail": "stopped before it had begun"}
        self._tell("exit", {**fields, "log_tail": list(self.script.log_tail)})

    def _window(self) -> None:
        script = self.script
        hangs = script.hangs_at is not None and self.steps_done >= script.hangs_at
        quiet = not self.training or (hangs and script.quiet)
        gone = not self.training or (hangs and script.vanishes)
        job = {"cpu_cores": 0.0 if quiet else 0.9, "processes": 0 if gone else 2}
        fields = {"window_s": WINDOW_MS / 1_000, "nvml": {"state": "absent"}, "cards": []}
        self._tell("gpu", {**fields, "job": job})

    def _tell(self, kind: str, fields: Mapping[str, Any]) -> None:
        record = {"t": kind, "seq": self._last_seq + 1, "boot_ms": self._now_ms, **fields}
        self.journal.append(record)
        self.alone.take(kind, record, self._now_ms)


def _artifact(name: str, kind: str, step: int) -> dict[str, Any]:
    digest = hashlib.sha256(CONTENT).hexdigest()
    files = [{"path": f"{name}.safetensors", "size": len(CONTENT), "sha256": digest}]
    return {"name": name, "kind": kind, "step": step, "complete": True, "files": files}


class FakeLink:
    """Implements the daemon's link to one boot of one machine."""

    def __init__(
        self, plan: LinkPlan, wake: Callable[[], None], line: Line, machine: Machine | None
    ) -> None:
        self.plan, self.wake, self._line, self._machine = plan, wake, line, machine
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        self.attached = False
        self.refusal: str | None = None
        self._inbox: list[dict[str, Any]] = []
        self._after_seq = plan.after_seq
        self._began_ms = 0
        self._beat_due_ms = 0
        self._pulls: list[tuple[int, str]] = []

    def start(self) -> None:
        """Begin to connect."""
        self._began_ms = self._line.clock.true_ms
        self._tell_state("connecting")

    def drain(self) -> list[dict[str, Any]]:
        """What has come in."""
        taken, self._inbox = self._inbox, []
        return taken

    def send(self, message: Mapping[str, Any]) -> bool:
        """Down to the agent, at once; False when not attached."""
        agent = self._agent
        if not self.attached or self.closed or agent is None or self._line.is_down:
            return False
        self.sent.append(dict(message))
        if message["t"] == "lease":
            self._line.on_lease(message)
        if message["t"] != "ack":
            agent.receive(message)
        return True

    def pull(self, name: str, files: Sequence[Mapping[str, Any]]) -> None:
        """Bring an artifact home; it takes its time."""
        self._pulls.append((self._line.clock.true_ms + self._line.pull_ms, name))

    def close(self) -> None:
        """Nothing comes in any more."""
        self.closed = True

    @property
    def _agent(self) -> FakeAgent | None:
        agent = None if self._machine is None else self._line.agents.get(self._machine.id)
        return agent if agent is not None and agent.alive else None

    def tick(self) -> None:
        """Carry what the agent has said since; notice when the line is lost."""
        if self.closed:
            return
        now_ms = self._line.clock.true_ms
        if self._line.refuses is not None and not self.attached:
            if self.refusal is None:
                self.refusal = self._line.refuses
                self._tell_state("refused", self.refusal)
            return
        is_up = (
            self._machine is not None
            and self._machine.power == "running"
            and self.plan.target.port % 100 == self._machine.boots
            and not self._line.is_down
        )
        if not is_up:
            if self.attached:
                self.attached = False
                self._tell_state("lost", "no answer")
            return
        assert self._machine is not None
        if not self.attached:
            if now_ms < self._began_ms + self._line.script.prepare_ms:
                return
            self._line.agent_on(self._machine, self.plan)
            agent = self._agent
            if agent is None:
                return
            agent.leases.new_reader()
            agent.renumber_above(self._after_seq)
            self.attached = True
            self._tell_state("attached")
        self._carry(now_ms)

    def _carry(self, now_ms: int) -> None:
        agent = self._agent
        if agent is None or agent.machine is not self._machine:
            return
        for record in [each for each in agent.journal if each["seq"] > self._after_seq]:
            self._after_seq = record["seq"]
            self._put(record)
        if now_ms >= self._beat_due_ms:
            self._beat_due_ms = now_ms + HEARTBEAT_MS
            self._put(agent.heartbeat())
        for due_ms, name in [pull for pull in self._pulls if pull[0] <= now_ms]:
            self._pulls.remove((due_ms, name))
            self._line.pulled.append(name)
            if self.plan.pull_to.is_absolute() and not self._line.pull_fails:
                home = self.plan.pull_to / name
                home.mkdir(parents=True, exist_ok=True)
                (home / f"{name}.safetensors").write_bytes(CONTENT)
            self._put({"t": "pulled", "name": name, "ok": not self._line.pull_fails})

    def _tell_state(self, state: str, detail: str = "") -> None:
        self._put({"t": "link", "state": state, "code": "", "detail": detail})

    def _put(self, message: dict[str, Any]) -> None:
        received_ms = self._line.clock.now().boot_ms
        self._inbox.append({**message, "received_boot_ms": received_ms})
        self.wake()


class Line:
    """Every link and agent of one world, and what ails the line."""

    def __init__(self, clock: FakeClock, cloud: FakeCloud) -> None:
        self.clock, self.cloud = clock, cloud
        self.script = Script()
        self.links: list[FakeLink] = []
        self.agents: dict[str, FakeAgent] = {}
        self.launches: list[Mapping[str, Any]] = []  # the order of each agent, oldest first
        self.journals: dict[tuple[str, str], list[dict[str, Any]]] = {}  # on the machines' disks
        self.pulled: list[str] = []
        self.pull_ms = 1_000
        self.pull_fails = False
        self.is_down = False
        self.refuses: str | None = None
        self.on_lease: Callable[[Mapping[str, Any]], None] = lambda message: None
        cloud.on_power_off = self._power_off

    def open(self, plan: LinkPlan, wake: Callable[[], None]) -> FakeLink:
        """The daemon's link factory."""
        wanted = {plan.target.port}
        found = [m for m in self.cloud.machines if 22_000 + 100 * int(m.id[2:]) + m.boots in wanted]
        link = FakeLink(plan, wake, self, found[0] if found else None)
        self.links.append(link)
        return link

    def agent_on(self, machine: Machine, plan: LinkPlan) -> FakeAgent:
        """The machine's agent, started if there was none for this run of the job."""
        known = self.agents.get(machine.id)
        if known is not None and not known.alive and known.machine.power == "running":
            self.agents[machine.id] = known = known.after_reboot()
        if known is None or known.spec["run_id"] != plan.spec["run_id"]:
            assert known is None or not known.training, "an agent that trains does not make way"
            journal = self.journals.setdefault((machine.id, plan.job_dir), [])
            agent = FakeAgent(machine, self.script, self.cloud, plan.spec, journal)
            self.launches.append(plan.spec)
            self.agents[machine.id] = agent
        return self.agents[machine.id]

    def cut(self) -> None:
        """Every connection dies with the daemon's process."""
        for link in self.links:
            link.close()
        self.links.clear()

    def tick(self) -> None:
        """Agents live on, whoever listens; links carry what there is."""
        for agent in self.agents.values():
            agent.tick()
        for link in list(self.links):
            link.tick()

    def _power_off(self, machine: Machine) -> None:
        agent = self.agents.get(machine.id)
        if agent is not None:
            agent.power_off()
