"""The simulated rental platform: machines, power, timers, and a meter of its own.

It shares no arithmetic with costguard: safety is judged by its figures. Whatever has a time
happens at that time, however rarely anybody looks.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from costguard.sim.clock import NEVER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from costguard.sim.clock import SimClock
    from costguard.sim.faults import Faults
    from costguard.sim.guest import Guest

MS_PER_S = 1_000
S_PER_HOUR = 3_600
OFF = ("stopped", "released")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ZONE_MS = 8 * HOUR_MS  # Shanghai has no summer time
NIGHT_FROM_MS, NIGHT_UNTIL_MS = 23 * HOUR_MS, 7 * HOUR_MS


@dataclass(frozen=True)
class Prices:
    """What the platform charges, in micro-yuan an hour, by the begun quantum.

    With `by_clock` quanta are counted on the clock, not from the start. From 23:00 to 07:00 in
    Shanghai running costs `night_per_mille` of the list price. A start costs `minimum_s` at least.
    """

    running: int
    quantum_s: int
    disk: int
    by_clock: bool = False
    night_per_mille: int = 1_000
    minimum_s: int = 0

    def share_per_mille(self, at_ms: int) -> int:
        """Of the list price, what running costs at this time."""
        of_day_ms = (at_ms + ZONE_MS) % DAY_MS
        is_night = of_day_ms >= NIGHT_FROM_MS or of_day_ms < NIGHT_UNTIL_MS
        return self.night_per_mille if is_night else 1_000

    def turns_ms(self, from_ms: int, until_ms: int) -> list[int]:
        """When, between the two, night begins or ends; none where it costs as much as day."""
        if self.night_per_mille == 1_000:
            return []
        midnight_ms = from_ms - (from_ms + ZONE_MS) % DAY_MS
        days = range(midnight_ms, until_ms, DAY_MS)
        found = (day + edge for day in days for edge in (NIGHT_UNTIL_MS, NIGHT_FROM_MS))
        return [at_ms for at_ms in found if from_ms < at_ms < until_ms]


PLAIN = Prices(0, 1, 0)


@dataclass
class Run:
    """One power interval of the platform's meter; `prices` are (since, micro-yuan an hour)."""

    started_ms: int
    prices: list[tuple[int, int]]
    by_console: bool = False  # a person switched it on in the platform's own console
    off_ms: int | None = None  # off since, and charged all the same
    ended_ms: int | None = None
    rules: Prices = PLAIN  # all but the price itself

    def micros(self, until_ms: int, quantum_s: int) -> int:
        """What it costs up to `until_ms`: a quantum begun is paid, at the price when it began."""
        end_ms = until_ms if self.ended_ms is None else min(self.ended_ms, until_ms)
        quantum_ms = quantum_s * MS_PER_S
        if self.rules is not PLAIN:
            return self._by_rules(end_ms, quantum_ms)
        total, begun = 0, 0
        later = [since for since, _ in self.prices[1:]] + [end_ms]
        for (_, price), up_to_ms in zip(self.prices, later, strict=True):
            by_then = -(-max(min(up_to_ms, end_ms) - self.started_ms, 0) // quantum_ms)
            total += (by_then - begun) * quantum_s * price
            begun = by_then
        return total // S_PER_HOUR

    def touches(self, from_ms: int, to_ms: int) -> bool:
        """Whether any of it lies between the two."""
        return self.started_ms < to_ms and (self.ended_ms is None or self.ended_ms > from_ms)

    def _by_rules(self, end_ms: int, quantum_ms: int) -> int:
        """The same under a whole tariff, of which each quantum is looked at by itself."""
        if end_ms <= self.started_ms:
            return 0
        first_ms = quantum_ms
        if self.rules.by_clock:
            first_ms -= (self.started_ms + ZONE_MS) % quantum_ms
        turns = self.rules.turns_ms(self.started_ms, end_ms)
        changes = [since for since, _ in self.prices[1:] if self.started_ms < since < end_ms]
        edges = sorted({self.started_ms, *turns, *changes, end_ms})
        per_mille, begun = 0, 0
        for from_ms, up_to_ms in pairwise(edges):
            price = [micros for since, micros in self.prices if since <= from_ms][-1]
            by_then = 1 + max(-(-(up_to_ms - self.started_ms - first_ms) // quantum_ms), 0)
            per_mille += (by_then - begun) * price * self.rules.share_per_mille(from_ms)
            begun = by_then
        total = per_mille * quantum_ms // (MS_PER_S * S_PER_HOUR * 1_000)
        first = self.prices[0][1] * self.rules.share_per_mille(self.started_ms)
        return max(total, self.rules.minimum_s * first // (S_PER_HOUR * 1_000))


def knowable(run: Run, looks: list[tuple[int, int]]) -> Run:
    """The run as one can know it whose looks were then, and were told these prices.

    What a price was between two looks nobody says: none is dearer than what either look was told.
    """
    if len(run.prices) == 1:
        return run
    prices, known, last = run.prices[:1], run.prices[0][1], 0
    for since_ms, price in run.prices[1:]:
        look = bisect_left(looks, (since_ms, 0))
        known = looks[look - 1][1] if look > last else known
        told = looks[look][1] if look < len(looks) else price
        prices.append((since_ms, min(price, max(known, told))))
        last = look
    return replace(run, prices=prices)


@dataclass
class Machine:
    """One rented machine as it really is."""

    id: str
    tag: str
    call: int  # which create call made it
    is_twin: bool  # the call had made one already
    created_ms: int
    visible_ms: int  # lists show it only from here on
    prices: Prices
    power: str = "off_new"
    due_ms: int = NEVER_MS  # when the transition under way is complete
    boots: int = 0
    timer_ms: int | None = None  # as the platform shows it
    timer_wall_error_ms: int = 0  # how wrong the clock was by which it was set, if that is not told
    timer_lag_ms: int = 0  # how late it fires; NEVER_MS: not at all
    guest_stop_works: bool = True
    runs: list[Run] = field(default_factory=list)
    guest: Guest | None = None
    had_guest: bool = False  # an agent has lived in it since it was switched on
    journal_records: int = 0  # of the agents that have lived in it, on its disk
    had_timer: bool = False  # its timer was set at some time of this run
    console_next: bool = False
    released_ms: int | None = None
    failed_stops: int = 0  # calls that were refused, ignored or got lost, in this run
    failed_stop_ms: int | None = None  # the last of them
    history: list[tuple[int, str, bool, int | None, int | None, int | None, int]] = field(
        default_factory=list
    )
    _closed_micros: int = 0

    @property
    def is_charged(self) -> bool:
        """Whether its meter runs."""
        return bool(self.runs) and self.runs[-1].ended_ms is None

    def running_micros(self, now_ms: int) -> int:
        """What its running has cost so far."""
        if not self.is_charged:
            return self._closed_micros
        return self._closed_micros + self.runs[-1].micros(now_ms, self.prices.quantum_s)

    def disk_micros(self, now_ms: int) -> int:
        """What its disk has cost so far, from creation to release."""
        until_ms = now_ms if self.released_ms is None else self.released_ms
        seconds = -(-(until_ms - self.created_ms) // MS_PER_S)
        return seconds * self.prices.disk // S_PER_HOUR

    def close_run(self, at_ms: int) -> None:
        """The meter stops."""
        if self.is_charged:
            run = self.runs[-1]
            run.ended_ms = at_ms
            self._closed_micros += run.micros(at_ms, self.prices.quantum_s)

    def note(self, at_ms: int) -> None:
        """Remember what an answer would say from now on, for answers out of a cache."""
        last = self.runs[-1] if self.runs else None
        since = None if last is None else last.started_ms
        until = None if last is None else last.ended_ms
        self.history.append(
            (at_ms, self.power, self.is_charged, since, until, self.timer_ms, self.boots)
        )


class Cloud:
    """Every machine that anybody has rented, and the time that they live in."""

    def __init__(
        self, clock: SimClock, faults: Faults, prices: Prices, start_ms: int, stop_ms: int
    ) -> None:
        self.clock, self.faults, self.prices = clock, faults, prices
        self.start_ms, self.stop_ms = start_ms, stop_ms
        self.price_log = [(clock.true_ms, prices.running)]  # since when, micro-yuan an hour
        terms = (prices.by_clock, prices.night_per_mille, prices.minimum_s)
        self.rules = PLAIN if terms == (False, 1_000, 0) else prices
        self.machines: list[Machine] = []
        self.by_id: dict[str, Machine] = {}
        self.calls = 0
        self.on_event: Callable[[str, Machine], None] = lambda what, machine: None

    # ------------------------------------------------------------------ time

    def live(self) -> Iterator[Machine]:
        """The machines with which something can still happen."""
        return (m for m in self.machines if m.released_ms is None)

    def settle(self) -> None:
        """Bring every machine up to the present: each thing at its time."""
        now_ms = self.clock.true_ms
        for machine in self.machines:
            if machine.power in OFF:
                continue
            while (at_ms := self.next_ms(machine)) <= now_ms:
                self._happen(machine, at_ms)
            if machine.guest is not None:
                machine.guest.live(now_ms)

    def next_ms(self, machine: Machine) -> int:
        """When something happens with it by itself."""
        at_ms = machine.due_ms
        if machine.timer_ms is not None:
            at_ms = min(at_ms, self._timer_fires_ms(machine))
        return at_ms if machine.guest is None else min(at_ms, machine.guest.next_ms())

    def next_event_ms(self) -> int:
        """When something happens with any machine."""
        times = [self.next_ms(m) for m in self.machines if m.power not in OFF]
        return min(times, default=NEVER_MS)

    def _timer_fires_ms(self, machine: Machine) -> int:
        if machine.timer_ms is None or machine.power not in ("starting", "running"):
            return NEVER_MS
        return machine.timer_ms + machine.timer_lag_ms

    def _happen(self, machine: Machine, at_ms: int) -> None:
        if machine.due_ms <= at_ms:
            machine.due_ms = NEVER_MS
            if machine.power == "starting":
                self._is_on(machine, at_ms)
            else:
                self._is_off(machine, at_ms)
        elif self._timer_fires_ms(machine) <= at_ms:
            machine.timer_ms = None
            self.on_event("timer", machine)
            self.begin_stop(machine, at_ms)
        elif machine.guest is not None and machine.guest.wants_off(at_ms):
            self.on_event("guest stop", machine)
            if machine.guest_stop_works:
                self.begin_stop(machine, at_ms)

    def _is_on(self, machine: Machine, at_ms: int) -> None:
        machine.power, machine.boots = "running", machine.boots + 1
        run = Run(
            at_ms,
            [(at_ms, self.prices.running)],
            by_console=machine.console_next,
            rules=self.rules,
        )
        machine.runs.append(run)
        machine.console_next, machine.failed_stops, machine.had_guest = False, 0, False
        machine.had_timer = machine.timer_ms is not None  # one of an earlier run guards nothing now
        machine.note(at_ms)
        self.on_event("on", machine)

    def _is_off(self, machine: Machine, at_ms: int) -> None:
        """The transition to off is complete; now and then the meter forgets to notice."""
        self._guest_dies(machine, at_ms)
        machine.timer_ms = None
        if machine.is_charged and machine.power == "stopping" and self.faults.hits("off_billing"):
            machine.power, machine.runs[-1].off_ms = "off", at_ms
            machine.due_ms = at_ms + self.faults.between(600, 7_200) * MS_PER_S
        else:
            machine.power = "stopped"
            machine.close_run(at_ms)
        machine.note(at_ms)
        self.on_event(machine.power, machine)

    def _guest_dies(self, machine: Machine, at_ms: int) -> None:
        if machine.guest is not None:
            machine.guest.live(at_ms)
            machine.guest.alive = False
            machine.journal_records += len(machine.guest.journal)
            machine.guest = None

    # ------------------------------------------------------------------ what is done to machines

    def make(self, tag: str, timer_ms: int | None, visible_ms: int, *, twin: bool) -> Machine:
        """Rent out one more."""
        now_ms = self.clock.true_ms
        if not twin:
            self.calls += 1
        machine = Machine(
            id=f"m-{len(self.machines) + 1}",
            tag=tag,
            call=self.calls,
            is_twin=twin,
            created_ms=now_ms,
            visible_ms=visible_ms,
            prices=self.prices,
            timer_ms=timer_ms,
            had_timer=timer_ms is not None,
            timer_wall_error_ms=self.clock.small_error_ms,
            guest_stop_works=not self.faults.hits("guest_stop_fails"),
        )
        if self.faults.hits("timer_never"):
            machine.timer_lag_ms = NEVER_MS
        elif self.faults.hits("timer_late"):
            machine.timer_lag_ms = self.faults.between(60, 1_800) * MS_PER_S
        self.machines.append(machine)
        self.by_id[machine.id] = machine
        self.begin_start(machine)
        return machine

    def begin_start(self, machine: Machine, *, by_console: bool = False) -> None:
        """Power on."""
        machine.power, machine.console_next = "starting", by_console
        machine.due_ms = self.clock.true_ms + self.start_ms
        machine.note(self.clock.true_ms)

    def begin_stop(self, machine: Machine, at_ms: int | None = None) -> None:
        """Power off: the guest dies at once, the meter when the machine is off."""
        when_ms = self.clock.true_ms if at_ms is None else at_ms
        if machine.power == "off":
            machine.due_ms = when_ms  # a further call ends what was off and charged
            machine.power = "stopping again"
        elif machine.power in ("starting", "running"):
            self._guest_dies(machine, when_ms)
            machine.power, machine.due_ms = "stopping", when_ms + self.stop_ms
            machine.note(when_ms)

    def release(self, machine: Machine) -> None:
        """Give it back, its disk with it."""
        now_ms = self.clock.true_ms
        self._guest_dies(machine, now_ms)
        machine.close_run(now_ms)
        machine.power, machine.due_ms, machine.timer_ms = "released", NEVER_MS, None
        machine.released_ms = now_ms
        self.on_event("released", machine)

    def set_price(self, running: int) -> None:
        """A new price, for what runs too."""
        self.settle()
        now_ms = self.clock.true_ms
        self.prices = replace(self.prices, running=running)
        self.price_log.append((now_ms, running))
        for machine in self.machines:
            machine.prices = self.prices
            if machine.is_charged:
                machine.runs[-1].prices.append((now_ms, running))
