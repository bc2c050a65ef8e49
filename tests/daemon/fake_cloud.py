"""A rental platform in memory, with a meter of its own and many ways to misbehave.

It shares no arithmetic with costguard: its bill is a second witness against the ledger. Whatever
has a time happens at that time, however rarely anybody looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Tariff
from costguard.localcloud.meter import Interval, Rate, compute_lines, format_yuan
from costguard.providers import local
from costguard.providers.base import (
    Absent,
    CreateRequest,
    InstanceView,
    NoCapacity,
    ProviderError,
    ProviderFacts,
    Quote,
    SshDetails,
    Unclear,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from costguard.core.moment import Moment
    from costguard.localcloud.rules import Rules
    from tests.daemon.fake_clock import FakeClock

Answer = TypeVar("Answer")
FOREVER = 10**9
FACTS = ProviderFacts(
    name="fake",
    poll_interval_ms=1_000,
    cache_age_ms=0,
    stop_latency_ms=3_000,
    timer_min_lead_ms=1_000,
    timer_lateness_ms=1_000,
    arms_timer_at_create=True,
    in_guest_stop=("power-off",),
    in_guest_stop_proven=True,
    tells_meter_end=True,
)


FOR_EVER_MS = 10**12


@dataclass
class Run:
    """One power interval of the platform's meter; `prices` are (since, micros per hour)."""

    started_ms: int
    prices: list[tuple[int, int]]
    ended_ms: int | None = None


@dataclass
class Machine:
    """One rented machine as it really is."""

    id: str
    tag: str
    gpu: str
    created_ms: int
    visible_ms: int  # lists show it only from here on
    power: str = "starting"  # starting, running, stopping, stopped, off: off and still charged
    due_ms: int | None = None  # when the transition under way is complete
    boots: int = 0
    timer_ms: int | None = None
    runs: list[Run] = field(default_factory=list)
    stop_calls_ms: list[int] = field(default_factory=list)
    released_ms: int | None = None

    @property
    def is_charged(self) -> bool:
        """Whether its meter runs."""
        return bool(self.runs) and self.runs[-1].ended_ms is None

    @property
    def stopped_ms(self) -> int | None:
        """When its meter stopped last; None while it runs or never ran."""
        return self.runs[-1].ended_ms if self.runs else None


@dataclass
class Trouble:
    """An error on some of a route's calls, before or after the call has taken effect."""

    route: str
    error: ProviderError
    times: int
    after: bool
    takes_ms: int


@dataclass
class Habits:
    """How the platform behaves; a test turns these at will."""

    start_ms: int = 1_000
    stop_ms: int = 1_000
    stop_ignored: int = 0  # so many stop calls are accepted and do nothing
    guest_stop_ignored: bool = False
    off_but_billing: bool = False
    dates_answers: bool = False
    timer_ignored: bool = False
    timer_late_ms: int = 0
    timer_lost: bool = False  # answered, not kept
    timer_lost_at_create: bool = False
    no_capacity: bool = False
    lists_after_ms: int = 0  # a created instance is so long missing from lists
    makes_twins: bool = False  # a create call makes two
    is_absent: bool = False  # every read says that there is no such instance
    hides_power: bool = False  # every answer says "unknown", and nothing of the rent
    tells_charges: bool = True  # whether answers say when rent began and ended
    tells_clock: bool = False  # whether they say what time it is there
    call_ms: int = 0  # how long each call takes
    tells_host_keys: bool = True
    password: str | None = None  # what it lets people in with
    balance: int | None = None  # what the wallet holds; None: not told
    unfit: str | None = None  # why its machines must not be adopted
    queues: bool = False  # a start waits for a card, for ever
    cards: int | None = None  # how many cards a machine that is on shows
    release_at_ms: int | None = None  # when it says that it deletes what is off


class FakeCloud:
    """The platform and the adapter to it in one; implements costguard's Provider."""

    def __init__(
        self,
        clock: FakeClock,
        *,
        price: int = 36_000_000,
        quantum_s: int = 1,
        disk_price: int = 0,
        facts: ProviderFacts = FACTS,
    ) -> None:
        self.clock = clock
        self.facts = facts
        self.habits = Habits()
        self.machines: list[Machine] = []
        self.calls: list[tuple[int, str, str]] = []
        self.troubles: list[Trouble] = []
        # The test's ear: what is called, with the timer that it sets; and when it has happened.
        self.on_call: Callable[[str, str, int | None], None] = lambda route, target, timer_ms: None
        self.on_done: Callable[[str], None] = lambda route: None
        self.on_power_off: Callable[[Machine], None] = lambda machine: None
        self.price, self.quantum_s, self.disk_price = price, quantum_s, disk_price
        self.tells_tariff: Tariff | None = None  # the rule that it names, whatever it bills
        self.rules: Rules | None = None  # with these the local platform's own meter makes the bill

    # ------------------------------------------------------------------ what a test does

    def fail(
        self,
        route: str,
        error: ProviderError | None = None,
        *,
        times: int = FOREVER,
        after: bool = False,
        takes_ms: int = 0,
    ) -> None:
        """Have calls of `route` fail, by default unclearly and before they take effect."""
        given = error or Unclear(f"{route}: 500")
        self.troubles.append(Trouble(route, given, times, after, takes_ms))

    def heal(self) -> None:
        """No more failing calls."""
        self.troubles.clear()

    def set_price(self, price: int) -> None:
        """A new price, for what runs too."""
        self.settle()
        self.price = price
        for machine in self.machines:
            if machine.is_charged:
                machine.runs[-1].prices.append((self.clock.true_ms, price))

    def stop_billing_off(self) -> None:
        """The end of off-but-billing, by itself."""
        self.habits.off_but_billing = False
        for machine in self.machines:
            if machine.power == "off":
                self._set_off(machine, self.clock.true_ms)

    def add(self, tag: str) -> Machine:
        """A machine that somebody else rents with this tag."""
        machine = Machine(f"m-{len(self.machines) + 1}", tag, "RTX 3090", self.clock.true_ms, 0)
        self.machines.append(machine)
        self._begin(machine, "starting", self.habits.start_ms)
        return machine

    def switch_on(self, machine: Machine) -> None:
        """Somebody switches it on in the platform's own console."""
        self.settle()
        self._begin(machine, "starting", self.habits.start_ms)

    def switch_off(self, machine: Machine) -> None:
        """Somebody switches it off there, or it was taken."""
        self.settle()
        self._begin(machine, "stopping", self.habits.stop_ms)

    def vanish(self, machine: Machine) -> None:
        """The platform takes it away, disk and all."""
        self.settle()
        self._set_off(machine, self.clock.true_ms)
        machine.released_ms = self.clock.true_ms

    def guest_power_off(self, machine: Machine) -> None:
        """The machine turns itself off from inside."""
        self.settle()
        if not self.habits.guest_stop_ignored and machine.power == "running":
            self._begin(machine, "stopping", self.habits.stop_ms)

    @property
    def charged(self) -> list[Machine]:
        """Every machine whose meter runs now."""
        self.settle()
        return [machine for machine in self.machines if machine.is_charged]

    def routes(self, route: str) -> list[int]:
        """When each call of a route was made (true ms)."""
        return [at for at, called, _ in self.calls if called == route]

    # ------------------------------------------------------------------ the bill

    def run_micros(self, run: Run) -> int:
        """One power interval: a quantum begun is paid, at the price when it began, floored."""
        if self.rules is not None:
            return self._ruled_micros(run, self.rules)
        until = self.clock.true_ms if run.ended_ms is None else run.ended_ms
        total, begun_ms = 0, run.started_ms
        while begun_ms < until:
            price = [micros for since, micros in run.prices if since <= begun_ms][-1]
            total += self.quantum_s * price
            begun_ms += self.quantum_s * 1_000
        return total // 3_600

    def _ruled_micros(self, run: Run, rules: Rules) -> int:
        rates = tuple(Rate(since_ms, micros) for since_ms, micros in run.prices)
        interval = Interval(run.started_ms, self.quantum_s, rates, run.ended_ms, rules)
        lines = compute_lines("run", interval, self.clock.true_ms)
        return sum(line.amount_micros for line in lines)

    def tolerance_micros(self, machine: Machine) -> int:
        """One quantum for each power interval, at the dearest price it had."""
        dearest = [max(micros for _, micros in run.prices) for run in machine.runs]
        return sum(self.quantum_s * micros // 3_600 + 1 for micros in dearest)

    def machine_micros(self, machine: Machine) -> int:
        """The whole bill of one machine."""
        self.settle()
        until = self.clock.true_ms if machine.released_ms is None else machine.released_ms
        disk = -(-(until - machine.created_ms) // 1_000) * self.disk_price // 3_600
        return sum(self.run_micros(run) for run in machine.runs) + disk

    # ------------------------------------------------------------------ time

    def settle(self) -> None:
        """Bring every machine up to the present: transitions, then timers, each at its time."""
        now_ms = self.clock.true_ms
        for machine in self.machines:
            while (at_ms := self._next_ms(machine)) is not None and at_ms <= now_ms:
                self._happen(machine, at_ms)

    def _next_ms(self, machine: Machine) -> int | None:
        times = [machine.due_ms, self._timer_fires_ms(machine)]
        return min((at for at in times if at is not None), default=None)

    def _timer_fires_ms(self, machine: Machine) -> int | None:
        if machine.timer_ms is None or machine.power not in ("starting", "running"):
            return None
        if self.habits.timer_ignored:
            return None
        return machine.timer_ms + self.habits.timer_late_ms

    def _happen(self, machine: Machine, at_ms: int) -> None:
        if machine.due_ms is not None and machine.due_ms <= at_ms:
            machine.due_ms = None
            if machine.power == "starting":
                machine.power, machine.boots = "running", machine.boots + 1
                if machine.is_charged:
                    machine.runs[-1].ended_ms = at_ms
                machine.runs.append(Run(at_ms, [(at_ms, self.price)]))
            elif machine.power == "stopping":
                if self.habits.off_but_billing and machine.is_charged:
                    machine.power, machine.timer_ms = "off", None
                else:
                    self._set_off(machine, at_ms)
            return
        machine.timer_ms = None
        self._begin(machine, "stopping", self.habits.stop_ms, at_ms)

    def _begin(self, machine: Machine, power: str, takes_ms: int, at_ms: int | None = None) -> None:
        if power == "stopping" and machine.power in ("stopped", "stopping"):
            return
        if power == "stopping":
            self.on_power_off(machine)
        machine.power = power
        machine.due_ms = (self.clock.true_ms if at_ms is None else at_ms) + takes_ms

    def _set_off(self, machine: Machine, at_ms: int) -> None:
        self.on_power_off(machine)
        machine.power, machine.due_ms, machine.timer_ms = "stopped", None, None
        if machine.is_charged:
            machine.runs[-1].ended_ms = at_ms

    # ------------------------------------------------------------------ the adapter

    def quote(self, gpu: str | None) -> Quote:
        """The one GPU type there is."""
        trouble = self._enter("quote", "")
        return self._leave(trouble, Quote(gpu or "RTX 3090", self._tariff(), in_stock=True))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """What lists show by now."""
        trouble = self._enter("list", tag_prefix)
        shown = [
            self._view(machine, now)
            for machine in self.machines
            if machine.tag.startswith(tag_prefix)
            and machine.released_ms is None
            and machine.visible_ms <= self.clock.true_ms
        ]
        return self._leave(trouble, shown)

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance."""
        trouble = self._enter("read", instance_id)
        if self.habits.is_absent:
            raise Absent(instance_id)
        return self._leave(trouble, self._view(self._machine(instance_id), now))

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one; two where the platform makes twins."""
        trouble = self._enter("create", request.tag, request.stop_at_ms)
        if self.habits.no_capacity:
            raise NoCapacity("no RTX 3090 free now")
        made = [self._make(request) for _ in range(2 if self.habits.makes_twins else 1)]
        return self._leave(trouble, self._view(made[0], now))

    def start(self, instance_id: str) -> None:
        """Switch on."""
        trouble = self._enter("start", instance_id)
        start_ms = FOR_EVER_MS if self.habits.queues else self.habits.start_ms
        machine = self._machine(instance_id)
        if machine.power not in ("starting", "running"):
            self._begin(machine, "starting", start_ms)
        self._leave(trouble, None)

    def stop(self, instance_id: str) -> None:
        """Switch off, or pretend to; off and still charged is ended by a further call."""
        trouble = self._enter("stop", instance_id)
        machine = self._machine(instance_id)
        machine.stop_calls_ms.append(self.clock.true_ms)
        if self.habits.stop_ignored > 0:
            self.habits.stop_ignored -= 1
        elif machine.power == "off" and not self.habits.off_but_billing:
            self._set_off(machine, self.clock.true_ms)
        elif machine.power in ("starting", "running"):
            self._begin(machine, "stopping", self.habits.stop_ms)
        self._leave(trouble, None)

    def release(self, instance_id: str) -> None:
        """Give it back."""
        trouble = self._enter("release", instance_id)
        machine = self._machine(instance_id)
        self._set_off(machine, self.clock.true_ms)
        machine.released_ms = self.clock.true_ms
        self._leave(trouble, None)

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Set the timer and read it back."""
        trouble = self._enter("arm_timer", instance_id, at_ms)
        machine = self._machine(instance_id)
        if not self.habits.timer_lost:
            machine.timer_ms = at_ms
        return self._leave(trouble, machine.timer_ms)

    def bill_micros(self, instance_id: str) -> int | None:
        """The bill so far."""
        trouble = self._enter("bill", instance_id)
        return self._leave(trouble, self.machine_micros(self._machine(instance_id)))

    def balance_micros(self) -> int | None:
        """What the wallet holds, where it is told."""
        return self.habits.balance

    def platform_ms(self) -> int | None:
        """Its clock in whole seconds, as the date of an answer has it."""
        return self.clock.true_ms // 1_000 * 1_000 if self.habits.dates_answers else None

    def _enter(self, route: str, target: str, timer_ms: int | None = None) -> Trouble | None:
        """Begin a call; raises where it fails before it takes effect."""
        self.on_call(route, target, timer_ms)
        self.calls.append((self.clock.true_ms, route, target))
        self.clock.advance(self.habits.call_ms)
        self.settle()
        for trouble in self.troubles:
            if trouble.route == route and trouble.times > 0:
                trouble.times -= 1
                self.clock.advance(trouble.takes_ms)
                self.settle()
                if trouble.after:
                    return trouble
                raise trouble.error
        return None

    def _leave(self, trouble: Trouble | None, answer: Answer) -> Answer:
        """End a call; raises where it fails after it has taken effect."""
        self.on_done(self.calls[-1][1])
        if trouble is not None:
            raise trouble.error
        return answer

    # ------------------------------------------------------------------ what it is made of

    def _tariff(self) -> Tariff:
        if self.tells_tariff is not None:
            return self.tells_tariff
        if self.rules is None:
            return Tariff(self.price, self.quantum_s, self.disk_price)
        wire = {
            "price_yuan_per_hour": format_yuan(self.price),
            "disk_price_yuan_per_hour": format_yuan(self.disk_price),
            "billing": self.rules.as_json(self.quantum_s),
        }
        return local.tariff_from_wire(wire)

    def _make(self, request: CreateRequest) -> Machine:
        now_ms = self.clock.true_ms
        machine = Machine(
            id=f"m-{len(self.machines) + 1}",
            tag=request.tag,
            gpu=request.gpu or "RTX 3090",
            created_ms=now_ms,
            visible_ms=now_ms + self.habits.lists_after_ms,
            timer_ms=request.stop_at_ms if self.facts.arms_timer_at_create else None,
        )
        if self.habits.timer_lost_at_create:
            machine.timer_ms = None
        self.machines.append(machine)
        self._begin(machine, "starting", self.habits.start_ms)
        return machine

    def _machine(self, instance_id: str) -> Machine:
        for machine in self.machines:
            if machine.id == instance_id and machine.released_ms is None:
                return machine
        raise Absent(instance_id)

    def _view(self, machine: Machine, now: Moment) -> InstanceView:
        power = Power.OFF_BILLING if machine.power == "off" else Power(machine.power)
        tells = self.habits.tells_charges and not self.habits.hides_power
        power = Power.UNKNOWN if self.habits.hides_power else power
        last = machine.runs[-1] if machine.runs and tells else None
        read = PowerRead(
            power=power,
            begun=now,
            charging=machine.is_charged if tells else None,
            price_micros_per_hour=self.price,
            charged_since_ms=None if last is None else last.started_ms,
            charged_until_ms=None if last is None else last.ended_ms,
            timer_at_ms=machine.timer_ms,
            told_at_ms=self.clock.true_ms if self.habits.tells_clock else None,
        )
        ssh = None
        if machine.power == "running":
            port = 22_000 + 100 * int(machine.id[2:]) + machine.boots
            keys = (f"ssh-ed25519 {machine.id}",) if self.habits.tells_host_keys else ()
            word = self.habits.password
            secret = None if word is None else SecretStr(word)
            ssh = SshDetails("127.0.0.1", port, "root", keys, "/work", secret)
        return InstanceView(
            id=machine.id,
            tag=machine.tag,
            gpu=machine.gpu,
            read=read,
            tariff=self._tariff(),
            ssh=ssh,
            created_ms=machine.created_ms,
            unfit=self.habits.unfit,
            gpu_count=self.habits.cards,
            release_at_ms=self.habits.release_at_ms,
            waits_for_capacity=self.habits.queues and machine.power == "starting",
        )
