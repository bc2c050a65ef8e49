"""One seed's world: time, troubles, a person, a platform; and the daemon of either tier in it.

Each tick moves the clock, lets machines, agents and lines live up to it, and then has the daemon
do whatever is due. A tick is never longer than a poll, and never passes anything that happens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from costguard.core.decide import FINAL_STATES, PULL_PATIENCE_MS
from costguard.sim.adapter import SimProvider
from costguard.sim.clock import NEVER_MS, SimClock
from costguard.sim.cloud import Cloud, Machine
from costguard.sim.judge import Judge
from costguard.sim.line import Line
from costguard.sim.scenario import Act

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random
    from typing import Any

    from costguard.sim.faults import Faults
    from costguard.sim.findings import JobBooks
    from costguard.sim.scenario import Order, Scenario
    from costguard.sim.script import Script

INSTALLATION = "sim"
IDLE_POLL_MS = 60_000
CHORES_MS = 600_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
STOP_BACKOFF_MS = 60_000
# What befalls the daemon's machine and the platform's prices, as it is drawn in each tick.
BEFALLS = (
    *("price_change", "suspend", "clock_jump"),
    *("disk_full", "database_locked", "new_boot"),
)


class Killed(BaseException):
    """The daemon's process ends here, as by SIGKILL; no handler of its own sees it."""


class Host(Protocol):
    """The daemon of one tier, as a world treats it."""

    def boot(self) -> None:
        """Start on what its store has."""
        ...

    def kill(self) -> None:
        """The process is gone, its store stays."""
        ...

    def work(self) -> None:
        """Do everything that is due now."""
        ...

    def quiet_ms(self) -> int:
        """How long nothing is due."""
        ...

    def chores(self) -> None:
        """Look for strays and read the bills."""
        ...

    def submit(self, order: Order) -> bool:
        """Hand over a job; whether it was taken, or refused for good."""
        ...

    def command(self, act: Act, cap_micros: int) -> bool:
        """What a person asks for; whether it was heard."""
        ...

    def break_store(self, kind: str | None) -> None:
        """`disk_full`, `database_locked`, or well again."""
        ...

    def books(self) -> Sequence[JobBooks]:
        """Every job as the books have it."""
        ...

    def posted_of(self, machine_id: str) -> int:
        """What is posted for one machine."""
        ...

    def broken_books(self) -> list[str]:
        """What is wrong with the ledger as a whole."""
        ...


class World:
    """A scenario being played."""

    def __init__(self, seed: int, rng: Random, scenario: Scenario, faults: Faults) -> None:
        self.scenario, self.faults, self.rng = scenario, faults, rng
        self.clock = SimClock()
        self.began_ms = self.clock.true_ms
        self.poll_ms = scenario.facts.poll_interval_ms
        self.tag_prefix = f"costguard-{INSTALLATION}-"
        self.cloud = Cloud(self.clock, faults, scenario.prices, scenario.start_ms, scenario.stop_ms)
        self.line = Line(self.cloud, faults, self._script_of)
        self.provider = SimProvider(self.cloud, faults, scenario.facts, self.elapse)
        self.provider.call_ms = scenario.call_ms
        self.judge = Judge(self, seed)
        self.ticks = 0
        self.calls: Counter[str] = Counter()  # to the platform, by route
        self._digest = hashlib.sha256()
        self.host: Host
        self._orders = list(scenario.orders)
        self._acts = list(scenario.acts)
        self._down_until_ms: int | None = None
        self._asleep_until_ms = 0
        self._broken_until_ms = 0
        self._well_since_ms = self.began_ms
        self._up_since_ms = self.began_ms
        self.passed_ms = 0  # how long the last tick was
        self._chores_due_ms = self.began_ms
        self._names: dict[int, str] = {}
        self._wire()

    def _wire(self) -> None:
        self.cloud.on_event = self._on_event
        self.provider.on_call = self._on_call
        self.provider.on_done = self._on_done
        self.provider.on_made = self.judge.on_made
        self.provider.on_read = self.judge.on_read
        self.provider.on_vague = self.judge.audit.on_vague
        self.provider.on_listed = self.judge.on_listed
        self.line.on_lease = self._on_lease
        for number in range(self.scenario.strangers):
            self.cloud.make(f"costguard-other-{number + 1}-1", None, 0, twin=False)

    def unwatch(self) -> None:
        """Nobody judges any more, for measuring what the daemon costs by itself."""
        provider = self.provider
        provider.on_call = lambda route, target, timer_ms: None
        provider.on_done = lambda route: None
        provider.on_made = provider.on_listed = lambda machines: None
        provider.on_read = lambda machine, at_ms: None
        provider.on_vague = lambda machine, told_on: None
        self.line.on_lease = lambda machine, message: None

    # ------------------------------------------------------------------ what others ask

    def trace(self, what: str) -> None:
        """One line of what happened: the same seed writes the same lines."""
        self._digest.update(f"{self.clock.true_ms} {what}\n".encode())

    @property
    def trace_hash(self) -> str:
        """SHA-256 over everything that happened."""
        return self._digest.hexdigest()

    def books(self) -> Sequence[JobBooks]:
        """Every job as the books have it."""
        return self.host.books()

    def posted_of(self, machine_id: str) -> int:
        """What the books have posted for one machine."""
        return self.host.posted_of(machine_id)

    def owners(self) -> set[str]:
        """Every machine that the books know."""
        return {name for job in self.books() for name in job.machines}

    def own(self) -> list[Machine]:
        """Every machine with our tag."""
        return [m for m in self.cloud.machines if m.tag.startswith(self.tag_prefix)]

    def job_of_tag(self, tag: str) -> int:
        """The number of the job that a tag names; 0 for another's."""
        number = tag.removeprefix(self.tag_prefix).partition("-")[0]
        return int(number) if tag.startswith(self.tag_prefix) and number.isdecimal() else 0

    def _script_of(self, tag: str) -> Script:
        name = self._names.get(self.job_of_tag(tag))
        if name is None:
            self._names = {job.id: job.name for job in self.books()}
            name = self._names[self.job_of_tag(tag)]
        return next(o.script for o in self.scenario.orders if o.spec.name == name)

    def latency_ms(self, order: Order) -> int:
        """L of a job."""
        facts = self.scenario.facts
        grace_ms = order.spec.runs[0].save_grace_ms
        return grace_ms + facts.stop_latency_ms + facts.timer_lateness_ms + facts.seen_late_ms

    def lateness_ms(self, order: Order) -> int:
        """How long a price rise may go on costing: until it is seen, saved and stopped.

        Where it cannot be seen or stopped, until the open lease has ended.
        """
        if self.faults.mood == "calm" or not self.faults.rates:
            return 2 * self.poll_ms + self.latency_ms(order)
        return order.spec.lease_ms + self.latency_ms(order) + 2 * self.poll_ms

    @property
    def well_since_ms(self) -> int:
        """Since when the daemon has been up, awake and able to write; NEVER_MS: it is not."""
        return self._well_since_ms

    @property
    def up_since_ms(self) -> int:
        """Since when the daemon has been up and awake, be its disk full; NEVER_MS: it is not."""
        return self._up_since_ms

    def daemon_worked(self) -> bool:
        """Whether the daemon has been up, awake, able to write and heard by the platform."""
        return self.clock.true_ms - self._well_since_ms > 2 * HOUR_MS

    def is_up(self) -> bool:
        """Whether the daemon runs at this moment."""
        return self._down_until_ms is None and self.clock.true_ms >= self._asleep_until_ms

    def notice(self, level: str, job: str, text: str) -> None:
        """The notifier: what it is told may get lost on the way."""
        lost = self.faults.hits("notice_lost")
        self.trace(f"{'lost ' if lost else ''}{level} {job}: {text}")
        self.judge.on_notice(level, job, text)
        if "a pass failed" in text and "StoreUnavailable" not in text:
            self.judge.violate("crash", job, text)

    # ------------------------------------------------------------------ time

    def elapse(self, ms: int) -> None:
        """A call takes so long."""
        if ms:
            self.clock.advance(ms)
            self.cloud.settle()

    def point(self, what: str) -> None:
        """Where the daemon may die: before and after each call and each commit."""
        if self.faults.hits("kill"):
            raise Killed(what)

    def play(self) -> None:
        """The whole scenario: troubles, then none, then the end."""
        self.host.boot()
        end_ms = self.began_ms + self.scenario.length_ms
        while self.clock.true_ms < end_ms:
            self.step(end_ms)
        self.heal()
        settle_ms = 2 * max(self.poll_ms, IDLE_POLL_MS) + MINUTE_MS
        self._run(settle_ms)
        self.judge.check_right()
        for job in self.books():
            if job.state not in FINAL_STATES:
                self.host.command(Act(0, "pause", job.name), 0)
        self._finish()
        self.judge.check_end()
        for what in self.host.broken_books():
            self.judge.violate("I5", "ledger", what)

    def heal(self) -> None:
        """From here on everything works, and nobody interferes."""
        self.faults.healed = True
        self._acts.clear()
        self._orders.clear()
        self.host.break_store(None)
        self._broken_until_ms = self._asleep_until_ms = 0
        self.clock.set_wall(-self.clock.wall_error_ms)
        if self._down_until_ms is not None:
            self._boot()
        self.trace("healed")

    def _run(self, ms: int) -> None:
        end_ms = self.clock.true_ms + ms
        while self.clock.true_ms < end_ms:
            self.step(end_ms)

    def _finish(self) -> None:
        """Until every job has ended and the stray watch has been round, or far too long."""
        facts = self.scenario.facts
        patience_ms = PULL_PATIENCE_MS + facts.stop_latency_ms + 2 * STOP_BACKOFF_MS
        patience_ms += 3 * max(self.poll_ms, facts.cache_age_ms, IDLE_POLL_MS) + MINUTE_MS
        watch_ms = self.clock.true_ms + CHORES_MS + MINUTE_MS
        end_ms = watch_ms + patience_ms
        while self.clock.true_ms < end_ms:
            done = all(job.state in FINAL_STATES for job in self.books())
            if done and (self.clock.true_ms >= watch_ms or not self._has_strays()):
                return
            self.step(end_ms)

    def _has_strays(self) -> bool:
        known = self.owners()
        return any(m.power != "stopped" or m.id not in known for m in self.own())

    def step(self, end_ms: int) -> None:
        """One tick."""
        now_ms = self.clock.true_ms
        until_ms = min(now_ms + self.poll_ms, end_ms, self._next_ms())
        passed_ms = max(until_ms - now_ms, 1)
        self.clock.advance(passed_ms)
        self.ticks += 1
        self.passed_ms = self.clock.true_ms - now_ms
        self.cloud.settle()
        self._trouble(passed_ms)
        recorded = False
        if self.is_up():
            self.line.tick(passed_ms)
            recorded = self._work()
        self.judge.tick(recorded=recorded)

    def _next_ms(self) -> int:
        """The nearest time at which something is to happen."""
        now_ms = self.clock.true_ms
        times = [self.cloud.next_event_ms(), self._chores_due_ms]
        if self._orders:
            times.append(self.began_ms + self._orders[0].at_ms)
        if self._acts:
            times.append(self.began_ms + self._acts[0].at_ms)
        if self.is_up():
            # What has come due while calls took their time is due at once, not a whole poll later.
            times.append(now_ms + max(self.host.quiet_ms(), 1))
            if self.line.links:
                times.append(self.line.next_event_ms())
        else:
            times.append(self._down_until_ms or self._asleep_until_ms)
        return min([at_ms for at_ms in times if at_ms > now_ms], default=NEVER_MS)

    # ------------------------------------------------------------------ the daemon

    def _work(self) -> bool:
        """Let the daemon do what is due; whether what it saw is in its books now."""
        try:
            self._ask()
            self.host.work()
            if self.clock.true_ms >= self._chores_due_ms:
                self._chores_due_ms = self.clock.true_ms + CHORES_MS
                self.host.chores()
        except Killed as death:
            self.trace(f"killed at {death}")
            self._kill(self.faults.between(1, 60) * self.faults.between(1, 60) * 1_000)
            return False
        return self._broken_until_ms == 0

    def _kill(self, for_ms: int) -> None:
        self.host.kill()
        self.line.cut()
        self._down_until_ms = self.clock.true_ms + for_ms
        self._well_since_ms = self._up_since_ms = NEVER_MS

    def _boot(self) -> None:
        self._down_until_ms = None
        now_ms = self.clock.true_ms
        self._up_since_ms = max(now_ms, self._asleep_until_ms)
        self._well_since_ms = max(self._up_since_ms, self._broken_until_ms)
        self._chores_due_ms = now_ms
        self.trace("booted")
        self.host.boot()

    def _trouble(self, passed_ms: int) -> None:
        """What befalls the daemon's machine, and the platform's prices, in this tick."""
        now_ms, faults = self.clock.true_ms, self.faults
        if self._down_until_ms is not None and now_ms >= self._down_until_ms:
            self._boot()
        if faults.healed or not faults.rates:
            return
        if self._broken_until_ms and now_ms >= self._broken_until_ms:
            self._broken_until_ms = 0
            self.host.break_store(None)
        for kind in BEFALLS:
            if kind in faults.rates and faults.comes(kind, passed_ms):
                self._befall(kind)

    def _befall(self, kind: str) -> None:
        now_ms, faults = self.clock.true_ms, self.faults
        if kind == "price_change":
            self._change_price()
        elif kind == "suspend":
            self._asleep_until_ms = now_ms + 8 * HOUR_MS
            self._well_since_ms = max(self._well_since_ms, self._asleep_until_ms)
            self._up_since_ms = max(self._up_since_ms, self._asleep_until_ms)
            self.trace("suspended")
        elif kind == "clock_jump":
            back = self.clock.wall_error_ms
            jump_ms = -back if back else faults.between(-60, 60) * MINUTE_MS
            self.clock.set_wall(jump_ms)
            self.trace(f"wall clock {jump_ms}")
        elif kind in ("disk_full", "database_locked"):
            minutes = 120 if kind == "disk_full" else 3
            self._broken_until_ms = now_ms + faults.between(1, minutes) * MINUTE_MS
            self._well_since_ms = max(self._well_since_ms, self._broken_until_ms)
            self.host.break_store(kind)
            self.trace(kind)
        elif self._down_until_ms is None:
            self._kill(faults.between(20, 600) * 1_000)
            self.clock.boot_anew()
            self.clock.set_wall(-self.clock.wall_error_ms)
            self.trace("new_boot")

    def _change_price(self) -> None:
        old = self.cloud.prices.running
        new = max(old * self.faults.between(60, 160) // 100, 1)
        self.cloud.set_price(new)
        self.trace(f"price {new}")
        if new > old:
            self.judge.note_price_rise(new - old)

    # ------------------------------------------------------------------ the person

    def _ask(self) -> None:
        """Hand over the jobs that are due, and do what the person does by now."""
        since_ms = self.clock.true_ms - self.began_ms
        while self._orders and self._orders[0].at_ms <= since_ms:
            if not self.host.submit(self._orders[0]):
                self._orders[0] = _later(self._orders[0], since_ms)
                break
            self._orders.pop(0)
        while self._acts and self._acts[0].at_ms <= since_ms:
            act = self._acts.pop(0)
            self.trace(f"{act.do} {act.job}")
            if act.do == "console":
                self._switch_on(act.job)
                continue
            cap = next(o.spec.cap_micros for o in self.scenario.orders if o.spec.name == act.job)
            self.host.command(act, cap * act.percent // 100)

    def _switch_on(self, name: str) -> None:
        """The person switches a stopped machine on in the platform's own console."""
        for job in self.books():
            for machine_id in job.machines:
                machine = self.cloud.by_id[machine_id]
                if job.name == name and machine.power == "stopped":
                    self.faults.counts["console_start"] += 1
                    self.cloud.begin_start(machine, by_console=True)

    # ------------------------------------------------------------------ ears

    def _on_event(self, what: str, machine: Machine) -> None:
        self.trace(f"{what} {machine.id}")
        self.judge.stir()

    def _on_call(self, route: str, target: str, timer_ms: int | None) -> None:
        self.calls[route] += 1
        self.trace(f"call {route} {target} {timer_ms}")
        self.judge.on_call(route, target, timer_ms)
        self.point(f"before {route}")

    def _on_done(self, route: str) -> None:
        self.point(f"after {route}")

    def _on_lease(self, machine: Machine, message: Mapping[str, Any]) -> None:
        self.trace(f"lease {machine.id} {message['valid_ms']}")
        self.judge.on_lease(machine, int(message["valid_ms"]))


def _later(order: Order, since_ms: int) -> Order:
    return replace(order, at_ms=since_ms + MINUTE_MS)
