"""The adapter to the simulated platform: costguard's Provider, with everything that can go wrong.

Whatever it does is told to an ear: before a call is made, and once it has taken effect.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn, TypeVar

from costguard.core.calendar import Window
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Discount, Tariff
from costguard.providers.base import (
    Absent,
    CreateRequest,
    InstanceView,
    NoCapacity,
    ProviderFacts,
    Quote,
    Refused,
    SshDetails,
    Unclear,
)
from costguard.sim.cloud import MS_PER_S, NIGHT_FROM_MS, NIGHT_UNTIL_MS
from costguard.sim.line import port_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from costguard.core.moment import Moment
    from costguard.sim.cloud import Cloud, Machine, Prices
    from costguard.sim.faults import Faults

Answer = TypeVar("Answer")
GPU = "RTX 3090"
TIMEOUT_MS = 2_000
POWERS = {
    "off_new": Power.STARTING,
    "starting": Power.STARTING,
    "running": Power.RUNNING,
    "stopping": Power.STOPPING,
    "stopping again": Power.STOPPING,
    "off": Power.OFF_BILLING,
    "stopped": Power.STOPPED,
}
UNCLEAR_BEFORE = ("timeout_before", "server_error", "too_many_requests")


class SimProvider:
    """One account of one installation on the simulated platform."""

    def __init__(
        self,
        cloud: Cloud,
        faults: Faults,
        facts: ProviderFacts,
        elapse: Callable[[int], None],
    ) -> None:
        self.cloud, self.faults, self.facts = cloud, faults, facts
        self._elapse = elapse
        self.call_ms = 0
        self.on_call: Callable[[str, str, int | None], None] = lambda route, target, timer_ms: None
        self.on_done: Callable[[str], None] = lambda route: None
        self.on_made: Callable[[list[Machine]], None] = lambda machines: None
        self.on_read: Callable[[Machine, int], None] = lambda machine, at_ms: None
        self.on_vague: Callable[[Machine, bool | None], None] = lambda machine, told_on: None
        self.wrong_bills: set[str] = set()  # machines of which one was told
        self.on_listed: Callable[[Sequence[Machine]], None] = lambda machines: None

    # ------------------------------------------------------------------ reading

    def quote(self, gpu: str | None) -> Quote:
        """The one GPU type there is."""
        late = self._enter("quote", "")
        return self._leave("quote", late, Quote(gpu or GPU, self._tariff(), in_stock=True))

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """What lists show by now: a new instance may be missing from them for a while."""
        late = self._enter("list", tag_prefix)
        now_ms = self.cloud.clock.true_ms
        shown = [
            machine
            for machine in self.cloud.machines
            if machine.tag.startswith(tag_prefix)
            and machine.released_ms is None
            and machine.visible_ms <= now_ms
        ]
        answer = self._leave("list", late, [self._view(machine, now) for machine in shown])
        self.on_listed(shown)
        return answer

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """One instance, perhaps as it was a while ago."""
        late = self._enter("read", instance_id)
        machine = self._machine(instance_id)
        age_ms = 0
        if self.facts.cache_age_ms and self.faults.hits("stale_read"):
            age_ms = self.faults.between(1, self.facts.cache_age_ms)
        elif self.faults.hits("stale_beyond"):
            age_ms = self.facts.cache_age_ms + self.faults.between(1, 600_000)
        # What is answered is no older than what was asked for less the cache's age.
        asked_ms = now.utc_ms - self.cloud.clock.wall_error_ms
        view = self._view(machine, now, None if age_ms == 0 else asked_ms - age_ms)
        told = not self.faults.hits("unknown_power")
        if not told:
            view = replace(view, read=PowerRead(Power.UNKNOWN, now), ssh=None)
        answer = self._leave("read", late, view)
        if age_ms == 0 and told:
            self.on_read(machine, asked_ms)
        else:
            self.on_vague(machine, answer.read.is_charging if told else None)
        return answer

    def bill_micros(self, instance_id: str) -> int | None:
        """The bill so far, now and then wrong, or not there yet."""
        late = self._enter("bill", instance_id)
        machine, now_ms = self._machine(instance_id), self.cloud.clock.true_ms
        bill: int | None = machine.running_micros(now_ms) + machine.disk_micros(now_ms)
        if self.faults.hits("late_bill"):
            bill = None
        elif bill is not None and self.faults.hits("wrong_bill"):
            bill = bill * self.faults.between(50, 200) // 100
            self.wrong_bills.add(instance_id)
        return self._leave("bill", late, bill)

    def balance_micros(self) -> int | None:
        """Not told."""
        return None

    # ------------------------------------------------------------------ changing

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Rent one; two where the platform makes twins."""
        late = self._enter("create", request.tag, request.stop_at_ms)
        if self.faults.hits("no_capacity"):
            raise NoCapacity(f"no {GPU} free now")
        now_ms = self.cloud.clock.true_ms
        timer_ms = request.stop_at_ms if self.facts.arms_timer_at_create else None
        made = []
        for number in range(2 if self.faults.hits("twin") else 1):
            hidden = self.faults.hits("not_listed_yet")
            visible_ms = now_ms + (self.faults.between(1_000, 10_000) if hidden else 0)
            made.append(self.cloud.make(request.tag, timer_ms, visible_ms, twin=number > 0))
        self.on_made(made)
        return self._leave("create", late, self._view(made[0], now))

    def start(self, instance_id: str) -> None:
        """Switch on; now and then there is no capacity for it."""
        late = self._enter("start", instance_id)
        machine = self._machine(instance_id)
        if self.faults.hits("no_capacity"):
            raise NoCapacity(f"no {GPU} free now")
        if machine.power == "stopped":
            self.cloud.begin_start(machine)
        self._leave("start", late, None)

    def stop(self, instance_id: str) -> None:
        """Switch off, or refuse to, or say yes and do nothing."""
        machine = self._machine(instance_id)
        machine.failed_stops += 1  # taken back below, once it has taken effect
        before_ms, machine.failed_stop_ms = machine.failed_stop_ms, self.cloud.clock.true_ms
        late = self._enter("stop", instance_id)
        if self.faults.hits("stop_refused"):
            raise Refused("the instance is busy")
        if not self.faults.hits("stop_ignored"):
            machine.failed_stops -= 1
            machine.failed_stop_ms = before_ms
            self.cloud.begin_stop(machine)
        self._leave("stop", late, None)

    def release(self, instance_id: str) -> None:
        """Give it back."""
        late = self._enter("release", instance_id)
        self.cloud.release(self._machine(instance_id))
        self._leave("release", late, None)

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Set the timer and read it back."""
        late = self._enter("arm_timer", instance_id, at_ms)
        machine = self._machine(instance_id)
        if self.facts.timer_min_lead_ms is None:
            raise Refused("there is no timer on this platform")
        if at_ms - self.cloud.clock.true_ms < self.facts.timer_min_lead_ms:
            raise Refused("too soon for a timer")
        if not self.faults.hits("timer_not_kept"):
            machine.timer_ms, machine.timer_wall_error_ms = at_ms, self.cloud.clock.small_error_ms
            machine.had_timer = True
            machine.note(self.cloud.clock.true_ms)
        return self._leave("arm_timer", late, machine.timer_ms)

    # ------------------------------------------------------------------ what it is made of

    def _enter(self, route: str, target: str, timer_ms: int | None = None) -> bool:
        """Begin a call; raises where it fails before it takes effect; whether it will after."""
        self.on_call(route, target, timer_ms)
        self._elapse(self.call_ms)
        for kind in UNCLEAR_BEFORE:
            if self.faults.hits(kind):
                self._fail(route, kind)
        return self.faults.hits("timeout_after")

    def _leave(self, route: str, late: bool, answer: Answer) -> Answer:  # noqa: FBT001
        """End a call; raises where it fails after it has taken effect."""
        self.on_done(route)
        if late:
            self._fail(route, "timeout_after")
        return answer

    def _fail(self, route: str, kind: str) -> NoReturn:
        if kind.startswith("timeout"):
            self._elapse(TIMEOUT_MS)
        raise Unclear(f"{route}: {kind}")

    def platform_ms(self) -> int:
        """Its clock, which is right."""
        return self.cloud.clock.true_ms

    def _machine(self, instance_id: str) -> Machine:
        machine = self.cloud.by_id.get(instance_id)
        if machine is None or machine.released_ms is not None:
            raise Absent(instance_id)
        return machine

    def _tariff(self) -> Tariff:
        return tariff_of(self.cloud.prices)

    def _view(self, machine: Machine, now: Moment, as_of_ms: int | None = None) -> InstanceView:
        state = machine.history[-1]
        if as_of_ms is not None:
            state = next((s for s in reversed(machine.history) if s[0] <= as_of_ms), state)
        _, power, charging, since_ms, until_ms, timer_ms, boots = state
        tells = self.facts.tells_meter_end
        read = PowerRead(
            power=POWERS[power],
            begun=now,
            charging=charging if tells else None,
            price_micros_per_hour=machine.prices.running,
            charged_since_ms=since_ms if tells else None,
            charged_until_ms=until_ms if tells else None,
            timer_at_ms=timer_ms,
            told_at_ms=self.cloud.clock.true_ms,
        )
        ssh = None
        if power == "running" and boots == machine.boots:
            host_key = (f"ssh-ed25519 {machine.id}",)
            ssh = SshDetails("127.0.0.1", port_of(machine), "root", host_key, "/root")
        return InstanceView(
            machine.id, machine.tag, GPU, read, self._tariff(), ssh, machine.created_ms
        )


@lru_cache(maxsize=1_000)
def tariff_of(prices: Prices) -> Tariff:
    """The platform's prices in costguard's words."""
    return Tariff(
        price_micros_per_hour=prices.running,
        quantum_s=prices.quantum_s,
        paused_micros_per_hour=prices.disk,
        by_clock=prices.by_clock,
        minimum_s=prices.minimum_s,
        discounts=() if prices.night_per_mille == 1_000 else (_night(prices),),
    )


def _night(prices: Prices) -> Discount:
    return Discount(
        prices.night_per_mille, Window(NIGHT_FROM_MS // MS_PER_S, NIGHT_UNTIL_MS // MS_PER_S)
    )
