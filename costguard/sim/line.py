"""The line between the daemon and the agents: links, and what ails them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.sim.clock import NEVER_MS
from costguard.sim.guest import Guest
from costguard.sim.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from costguard.remote.link import LinkPlan
    from costguard.sim.cloud import Cloud, Machine
    from costguard.sim.faults import Faults

FIRST_PORT = 1_024
PORTS_PER_MACHINE = 64
PULL_MS = 30_000
PREPARE_MS = 20_000
MS_PER_S = 1_000
HOLDING = Script(download_ms=NEVER_MS, adapter=False)


def port_of(machine: Machine) -> int:
    """Where the machine answers at this boot: another port at each, as on real platforms."""
    return FIRST_PORT + PORTS_PER_MACHINE * int(machine.id[2:]) + machine.boots


class SimLink:
    """Implements the daemon's link to one boot of one machine."""

    def __init__(
        self, plan: LinkPlan, wake: Callable[[], None], line: Line, machine: Machine
    ) -> None:
        self.plan, self.wake, self._line, self.machine = plan, wake, line, machine
        self.boot = machine.boots
        self.closed = False
        self.attached = False
        self._inbox: list[dict[str, Any]] = []
        self._after_seq = plan.after_seq
        self._began_ms = 0
        self._pulls: list[tuple[int, str]] = []

    def start(self) -> None:
        """Begin to connect."""
        self._began_ms = self._line.cloud.clock.true_ms
        self._tell_state("connecting")

    def drain(self) -> list[dict[str, Any]]:
        """What has come in."""
        taken, self._inbox = self._inbox, []
        return taken

    def send(self, message: Mapping[str, Any]) -> bool:
        """Down to the agent; False when not attached. What is sent into a hanging line is lost."""
        guest = self.machine.guest
        if not self.attached or self.closed or guest is None or self.machine.boots != self.boot:
            return False
        if self._line.state_of(self.machine) == "up" and message["t"] != "ack":
            if message["t"] == "lease":
                self._line.on_lease(self.machine, message)
            guest.receive(message, self._line.cloud.clock.true_ms)
        return True

    def pull(self, name: str, files: Sequence[Mapping[str, Any]]) -> None:
        """Bring an artifact home; it takes its time."""
        self._pulls.append((self._line.cloud.clock.true_ms + PULL_MS, name))

    def close(self) -> None:
        """Nothing comes in any more."""
        self.closed = True

    def next_ms(self) -> int:
        """When something comes in by itself."""
        if self.closed:
            return NEVER_MS
        if self.attached:
            return min((due_ms for due_ms, _ in self._pulls), default=NEVER_MS)
        ready_ms = self._began_ms + PREPARE_MS
        return ready_ms if ready_ms > self._line.cloud.clock.true_ms else NEVER_MS

    def tick(self) -> None:
        """Carry what the agent has said since; notice when the line is lost."""
        if self.closed:
            return
        machine, now_ms = self.machine, self._line.cloud.clock.true_ms
        state = self._line.state_of(machine)
        is_up = machine.power == "running" and machine.boots == self.boot and state != "down"
        if not is_up:
            if self.attached:
                self.attached = False
                self._tell_state("lost", "no answer")
            return
        if state == "hanging":
            return
        if not self.attached:
            if now_ms < self._began_ms + PREPARE_MS:
                return
            self._line.guest_on(machine, self.plan.spec)
            assert machine.guest is not None
            machine.guest.leases.new_reader()
            self.attached = True
            self._tell_state("attached")
        self._carry(now_ms)

    def _carry(self, now_ms: int) -> None:
        guest = self.machine.guest
        if guest is None:
            return
        for record in guest.journal[max(self._after_seq - guest.after_seq, 0) :]:
            self._put(record)
        self._after_seq = max(self._after_seq, guest.after_seq + len(guest.journal))
        self._put(guest.heartbeat(now_ms))
        for due_ms, name in [pull for pull in self._pulls if pull[0] <= now_ms]:
            self._pulls.remove((due_ms, name))
            self._put({"t": "pulled", "name": name, "ok": True})

    def _tell_state(self, state: str, detail: str = "") -> None:
        self._put({"t": "link", "state": state, "code": "", "detail": detail})

    def _put(self, message: dict[str, Any]) -> None:
        received_ms = self._line.cloud.clock.now().boot_ms
        self._inbox.append({**message, "received_boot_ms": received_ms})
        self.wake()


class Line:
    """Every link of one world, and the state of the wire to each machine."""

    def __init__(self, cloud: Cloud, faults: Faults, script_of: Callable[[str], Script]) -> None:
        self.cloud, self.faults, self._script_of = cloud, faults, script_of
        self.links: list[SimLink] = []
        self._troubled: dict[str, tuple[int, str]] = {}  # machine: (until, state)
        self.guests: list[Guest] = []  # every agent there ever was
        self.on_lease: Callable[[Machine, Mapping[str, Any]], None] = lambda machine, message: None

    def open(self, plan: LinkPlan, wake: Callable[[], None]) -> SimLink:
        """The daemon's link factory."""
        number = (plan.target.port - FIRST_PORT) // PORTS_PER_MACHINE
        link = SimLink(plan, wake, self, self.cloud.by_id[f"m-{number}"])
        self.links.append(link)
        return link

    def guest_on(self, machine: Machine, spec: Mapping[str, Any]) -> None:
        """The machine's agent, started if there was none since it was switched on."""
        if machine.guest is None:
            is_visit = "contact" not in spec  # the agent only holds the machine
            script = HOLDING if is_visit else self._script_of(machine.tag)
            machine.guest = Guest(
                script, spec, self.faults, self.cloud.clock.true_ms, machine.journal_records
            )
            machine.had_guest = True
            self.guests.append(machine.guest)

    def state_of(self, machine: Machine) -> str:
        """`up`, `down` or `hanging`."""
        until_ms, state = self._troubled.get(machine.id, (0, "up"))
        if self.faults.healed or self.cloud.clock.true_ms >= until_ms:
            return "up"
        return state

    def cut(self) -> None:
        """Every connection dies with the daemon's process."""
        for link in self.links:
            link.close()
        self.links.clear()

    def next_event_ms(self) -> int:
        """When something comes in by itself on any link."""
        return min((link.next_ms() for link in self.links), default=NEVER_MS)

    def tick(self, passed_ms: int) -> None:
        """What happened to the wires in the last `passed_ms`; then the links carry."""
        if not self.links:
            return
        self.links = [link for link in self.links if not link.closed]
        for link in self.links:
            machine = link.machine
            if self.state_of(machine) == "up":
                for kind, state in (("line_lost", "down"), ("line_hangs", "hanging")):
                    if self.faults.comes(kind, passed_ms):
                        until_ms = self.faults.between(20, 3_000) * MS_PER_S
                        self._troubled[machine.id] = (self.cloud.clock.true_ms + until_ms, state)
            link.tick()
