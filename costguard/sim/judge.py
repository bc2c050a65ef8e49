"""The verdict on every tick, by the platform's own figures: what must never happen, and did it.

What no enforcer could have prevented is told from what one should have: the first is counted as
excused, the second is a violation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.core.decide import FINAL_STATES
from costguard.core.lease import needed_micros
from costguard.core.tariff import hold_micros
from costguard.sim.adapter import tariff_of
from costguard.sim.audit import Audit
from costguard.sim.findings import Figures, Violation
from costguard.sim.promise import Promises
from costguard.store.ledger import Caps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.sim.cloud import Machine, Run
    from costguard.sim.findings import JobBooks
    from costguard.sim.scenario import Order
    from costguard.sim.world import World

MS_PER_S = 1_000
HOUR_MS = 3_600_000
SLOWEST_POLL_MS = 60_000  # of a job that has ended
CALLS_MS = 60_000  # what other jobs' calls may take, time-outs among them
STRAY = ".stray-"  # in the name of the job under which a duplicate is stopped
GUARD_REASONS = ("idle", "stalled", "diverged", "failed")
# Troubles after which a budget or blind verdict on a healthy run may be right.
EXCUSES_BLIND = (
    "line_lost",
    "line_hangs",
    "suspend",
    "clock_jump",
    "new_boot",
    "kill",
    "disk_full",
    "database_locked",
    "timeout_before",
    "timeout_after",
    "server_error",
    "too_many_requests",
    "timer_not_kept",
    "timer_never",
    "stop_ignored",
)


@dataclass
class Track:
    """What the judge remembers of one job."""

    order: Order | None
    limit_micros: int = 0  # the largest cap under which anything was granted
    extra_micros: int = 0  # what a price rise in mid-run may have added
    judged_reason: bool = False
    worst_micros: int = 0
    worst_disk_micros: int = 0  # the part of it that its disks had cost by then
    ahead_ms: int = 0  # how far our wall clock was ahead when its lease was granted


class Judge:
    """Watches one world."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed
        self.violations: list[Violation] = []
        self.figures = Figures()
        self.audit = Audit(world, self.figures, self.violate)
        self.tracks: dict[int, Track] = {}
        self.promises = Promises(world)
        self._said: set[tuple[str, str]] = set()
        self._made_for: dict[int, list[Machine]] = {}
        self._final: set[int] = set()
        self._listed_ms: dict[str, int] = {}
        self._known_ms: dict[str, int] = {}  # since when a machine is in the books
        self._asked_ms: dict[tuple[str, str], int] = {}  # (read or stop, machine): the last call
        self._breach_ms: dict[int, int] = {}  # jobs past a cap: since when
        self._breach_told: set[str] = set()  # of which it was said
        self._quiet: set[int] = set()  # jobs with which nothing costs anything for now
        self._owned: tuple[Sequence[JobBooks], dict[str, JobBooks], set[str]] = ((), {}, set())

    # ------------------------------------------------------------------ telling

    def violate(self, invariant: str, subject: str, detail: str) -> None:
        """Keep one violation; the same again about the same thing is not news."""
        if (invariant, subject) not in self._said:
            self._said.add((invariant, subject))
            self.violations.append(
                Violation(self.seed, self.world.ticks, invariant, f"{subject}: {detail}")
            )
            self.world.trace(f"violation {invariant} {subject} {detail}")

    def track(self, job: JobBooks) -> Track:
        """What is remembered of a job."""
        found = self.tracks.get(job.id)
        if found is None:
            orders = {order.spec.name: order for order in self.world.scenario.orders}
            found = self.tracks[job.id] = Track(orders.get(job.name))
        return found

    # ------------------------------------------------------------------ at each call

    def on_call(self, route: str, target: str, timer_ms: int | None) -> None:
        """Strangers are never touched (section 3); nothing runs without a lease (I2)."""
        if route in ("read", "stop"):
            self._asked_ms[route, target] = self.world.clock.true_ms
        if route in ("stop", "start", "release", "arm_timer"):
            machine = self.world.cloud.by_id.get(target)
            if machine is not None and not machine.tag.startswith(self.world.tag_prefix):
                self.violate("stranger", target, f"{route} was called for another's machine")
        if route not in ("create", "start", "arm_timer"):
            return
        number = self.world.job_of_tag(target if route == "create" else self._tag(target))
        job = next((job for job in self.world.books() if job.id == number), None)
        if job is None or job.lease_end_ms is None:
            self.violate("I2", target, f"{route} without a lease")
        elif timer_ms is not None:
            order = self.track(job).order
            grace_ms = order.spec.runs[0].save_grace_ms if order is not None else 0
            ahead_ms = min(self.track(job).ahead_ms, self._ahead_ms())  # it may have been set since
            if timer_ms > job.lease_end_ms + grace_ms - ahead_ms:
                self.violate("I2", target, "a timer beyond what is reserved")
        if route == "start" and target in self.world.cloud.by_id:
            self.audit.on_started(self.world.cloud.by_id[target], job)

    def _ahead_ms(self) -> int:
        """How far the wall clock is ahead of the platform's, as an answer's date tells it."""
        return self.world.clock.wall_error_ms - self.world.clock.small_error_ms

    def on_lease(self, machine: Machine, valid_ms: int) -> None:
        """The agent is never granted more than is reserved and armed (I2)."""
        number = self.world.job_of_tag(machine.tag)
        job = next((job for job in self.world.books() if job.id == number), None)
        if job is None or job.armed_end_ms is None:
            self.violate("I2", machine.id, "the agent was granted time without a lease")
        elif self.world.clock.now().utc_ms + valid_ms > job.armed_end_ms + self.world.poll_ms:
            self.violate("I2", machine.id, "the agent was granted time beyond what is armed")
        has_timer = self.world.scenario.facts.timer_min_lead_ms is not None
        if has_timer and "clock_jump" not in self.world.faults.counts:
            end_ms = self.world.clock.true_ms + valid_ms
            if machine.timer_ms is None or end_ms > machine.timer_ms:
                self.violate("I2", machine.id, "the agent was granted time beyond the timer")

    def _tag(self, machine_id: str) -> str:
        machine = self.world.cloud.by_id.get(machine_id)
        return "" if machine is None else machine.tag

    def on_made(self, machines: Sequence[Machine]) -> None:
        """At most one instance for a job, unless the platform itself makes two."""
        number = self.world.job_of_tag(machines[0].tag)
        earlier = [m for m in self._made_for.get(number, []) if m.released_ms is None]
        if earlier:
            what = f"{machines[0].id} was made while {earlier[0].id} is there"
            self.violate("one_instance", f"job {number}", what)
        self._made_for.setdefault(number, []).extend(machines)
        job = next((job for job in self.world.books() if job.id == number), None)
        for machine in machines:
            self.audit.on_started(machine, job)

    def on_read(self, machine: Machine, asked_ms: int) -> None:
        """The platform told the truth about a machine."""
        self.audit.on_read(machine, asked_ms)

    def on_listed(self, machines: Sequence[Machine]) -> None:
        """These machines were shown to the daemon."""
        for machine in machines:
            self._listed_ms.setdefault(machine.id, self.world.clock.true_ms)

    # ------------------------------------------------------------------ at each entry

    def on_grant(self, job: JobBooks, everything: Sequence[JobBooks]) -> None:
        """I1: no grant leaves posted + pending + F above a cap."""
        self.figures.grants += 1
        self._final.discard(job.id)  # a person has had it go on
        track = self.track(job)
        track.limit_micros = max(track.limit_micros, job.cap_micros)
        track.ahead_ms = self._ahead_ms()
        if job.committed_micros > job.cap_micros:
            self.violate("I1", job.name, f"{job.committed_micros} > {job.cap_micros}")
        if track.order is not None and "clock_jump" not in self.world.faults.counts:
            self._check_hold(job, track.order)
        caps = self.world.scenario.caps
        project = (caps.project_micros or {}).get(job.project)
        mates = [each.committed_micros for each in everything if each.project == job.project]
        if project is not None and sum(mates) > project:
            self.violate("I1", f"project {job.project}", f"more than {project} is promised")
        month = caps.month_micros
        if month is not None and sum(each.committed_micros for each in everything) > month:
            self.violate("I1", "month", f"more than {month} is promised")

    def _check_hold(self, job: JobBooks, order: Order) -> None:
        """F: keeping the disk as long as was asked for is held back, or has been charged."""
        now_ms, disk = self.world.clock.true_ms, self.world.scenario.prices.disk
        needed = order.spec.instance.keep_for_ms * disk // HOUR_MS
        charged = sum(machine.disk_micros(now_ms) for machine in self.own_machines(job))
        slack = disk * MS_PER_S // HOUR_MS + 2 * len(job.machines) + 2
        if job.hold_micros + charged < needed - slack:
            what = f"{job.hold_micros} held and {charged} charged of {needed} for the disk"
            self.violate("I1", job.name, what)

    def on_settle(self, job: JobBooks) -> None:
        """I4: a reservation is settled only once the meter has stopped."""
        self._check_off(job, "settled")

    def on_overrun(self, job: JobBooks, alarmed_micros: int) -> None:
        """What no lease covered is alarmed in the commit that books it."""
        if alarmed_micros < job.overrun_micros:
            what = f"{alarmed_micros} of {job.overrun_micros} micro-yuan of overrun are alarmed"
            self.violate("alarm", job.name, what)

    def on_final(self, job: JobBooks) -> None:
        """I4: a final state is shown only once the meter has stopped."""
        if job.id not in self._final:
            self._final.add(job.id)
            self.figures.stops += 1
            self._check_off(job, job.state)

    def _check_off(self, job: JobBooks, what: str) -> None:
        now_ms = self.world.clock.true_ms
        for machine in self.own_machines(job):
            run = machine.runs[-1] if machine.runs else None
            coming = machine.power == "starting" and machine.visible_ms <= now_ms
            if (run is None and coming) or (machine.is_charged and run and not run.by_console):
                if self.world.faults.is_beyond:
                    self.figures.false_stops_beyond += 1
                else:
                    self.figures.false_stops += 1
                    self.violate("I4", job.name, f"{what} while {machine.id} is {machine.power}")

    def own_machines(self, job: JobBooks) -> list[Machine]:
        """The machines whose cost is the job's: what it adopted, or may still adopt."""
        known = self.owners(self.world.books())
        mine = [self.world.cloud.by_id[name] for name in job.machines]
        adopted_calls = {machine.call for machine in mine}
        for machine in self._made_for.get(job.id, []):
            is_open = machine.id not in known and machine.call not in adopted_calls
            if is_open and not machine.is_twin:
                mine.append(machine)
        return mine

    def owners(self, jobs: Sequence[JobBooks]) -> dict[str, JobBooks]:
        """By machine, the job in whose books it is."""
        if self._owned[0] is not jobs:  # the same books are looked at tick after tick
            owners = {name: job for job in jobs for name in job.machines}
            adopted = {self._tag(name) for name, job in owners.items() if STRAY not in job.name}
            self._owned = jobs, owners, adopted
        return self._owned[1]

    # ------------------------------------------------------------------ at each tick

    def tick(self, *, recorded: bool) -> None:
        """Everything that must hold at every moment."""
        jobs = self.world.books()
        for job in jobs:
            if job.id not in self._quiet:
                self._check_cap(job)
                if job.overrun_micros and self._is_covered_always():
                    what = f"{job.overrun_micros} micro-yuan that nothing had reserved"
                    self.violate("I2", job.name, what)
                self._check_reason(job)
            self._check_alarm(job)
        self._check_prompt(jobs)
        self.audit.tick(self.owners(jobs), recorded=recorded)

    def on_notice(self, level: str, job: str, text: str) -> None:
        """What a person was told, or would have been, had it not got lost."""
        if text.startswith("past the cap") and level == "alarm":
            self._breach_told.add(job)
        elif text.startswith("within the caps"):
            self._breach_told.discard(job)

    def _check_alarm(self, job: JobBooks) -> None:
        """Past a cap, a person is told within a poll; and what no lease covered is the overrun."""
        track, now_ms = self.track(job), self.world.clock.true_ms
        if job.posted_micros + job.hold_micros <= job.cap_micros or job.state == "released":
            self._breach_ms.pop(job.id, None)
            return
        since_ms = max(self._breach_ms.setdefault(job.id, now_ms), self.world.well_since_ms)
        late_ms = now_ms - since_ms - max(self.world.poll_ms, SLOWEST_POLL_MS) - CALLS_MS
        if late_ms > 0 and job.name not in self._breach_told:
            self.violate("alarm", job.name, f"past its cap and not a word, late by {late_ms} ms")
        if track.order is None or not track.limit_micros or self.world.provider.wrong_bills:
            return
        over = job.posted_micros - track.limit_micros - job.overrun_micros
        disk_ms = self.world.clock.forward_ms + MS_PER_S
        if over > disk_ms * self.world.scenario.prices.disk // HOUR_MS + 2:
            self.violate("overrun", job.name, f"{over} micro-yuan past the cap, not as overrun")

    def _check_prompt(self, jobs: Sequence[JobBooks]) -> None:
        """A daemon that is well asks after what is charged each poll, and soon stops a duplicate.

        What a true answer shows is in the books by then (`audit`), and what of it no lease
        covers is alarmed in the same commit (`on_overrun`): so within a poll of being there.
        """
        now_ms, well_ms = self.world.clock.true_ms, self.world.well_since_ms
        poll_ms = self.world.poll_ms
        if now_ms - well_ms <= 2 * poll_ms:
            return
        owners = self.owners(jobs)
        adopted = self._owned[2]
        for machine in self.world.cloud.machines:
            if not machine.is_charged:
                continue
            owner = owners.get(machine.id)
            if owner is not None and owner.state != "released":
                known_ms = self._known_ms.setdefault(machine.id, now_ms)
                since_ms = max(well_ms, known_ms, machine.runs[-1].started_ms)
                self._check_asked("read", machine, since_ms, max(poll_ms, SLOWEST_POLL_MS))
            is_double = machine.tag in adopted if owner is None else STRAY in owner.name
            if is_double and machine.id in self._listed_ms:
                since_ms = max(well_ms, self._listed_ms[machine.id])
                self._check_asked("stop", machine, since_ms, 2 * poll_ms)

    def _check_asked(self, route: str, machine: Machine, since_ms: int, within_ms: int) -> None:
        """It was asked for within so long of when it was due, or since."""
        asked_ms = max(since_ms, self._asked_ms.get((route, machine.id), 0))
        late_ms = self.world.clock.true_ms - asked_ms - within_ms
        if late_ms > CALLS_MS:
            self.violate("prompt", machine.id, f"no {route} call, late by {late_ms} ms")

    def _is_covered_always(self) -> bool:
        """Whether nothing can run or be booked beyond what is reserved: no faults, no guessing."""
        return self.world.faults.mood == "calm"

    def stir(self) -> None:
        """Something has happened to a machine."""
        self._quiet.clear()

    def _check_cap(self, job: JobBooks) -> None:
        """True spend is within the cap, or no enforcer could have kept it there."""
        track = self.track(job)
        if track.order is None or track.limit_micros == 0:
            return
        now_ms = self.world.clock.true_ms
        machines = self.own_machines(job)
        if job.state in FINAL_STATES and not any(m.is_charged for m in machines):
            self._quiet.add(job.id)  # its disk costs on: F has it, and it is looked at once more
        spent = sum(self._cost(machine, now_ms) for machine in machines)
        over = spent - track.limit_micros - track.extra_micros
        if over <= track.worst_micros:
            return  # nothing has been added to what was judged already
        disk = sum(machine.disk_micros(now_ms) for machine in machines)
        grown, disk_grown = over - track.worst_micros, disk - track.worst_disk_micros
        was_past, track.worst_micros, track.worst_disk_micros = track.worst_micros > 0, over, disk
        if was_past and grown <= disk_grown:
            return  # past the cap what is off costs on, up to its release
        if any(self._could_be_stopped(machine) for machine in machines):
            self.figures.overspend_micros_max = max(self.figures.overspend_micros_max, over)
            self.violate("cap", job.name, f"{over} micro-yuan above the cap")
            return
        self.figures.excused_micros_max = max(self.figures.excused_micros_max, over)
        why = self.promises.broken(track.order, machines, over)
        if why is not None:
            self.violate("bound", job.name, f"{over} micro-yuan above the cap: {why}")

    def _cost(self, machine: Machine, now_ms: int) -> int:
        """What a machine's runs under our leases have cost; what nobody could stop is left out."""
        total = machine.disk_micros(now_ms)
        if machine.runs and all(self._is_plain(run) for run in machine.runs):
            return total + machine.running_micros(now_ms)
        quantum_s = machine.prices.quantum_s
        for run in machine.runs:
            if not run.by_console:
                until_ms = now_ms if run.off_ms is None else min(run.off_ms, now_ms)
                total += run.micros(until_ms, quantum_s)
        return total

    def _is_plain(self, run: Run) -> bool:
        return not run.by_console and run.off_ms is None

    def _could_be_stopped(self, machine: Machine) -> bool:
        """Whether one armed enforcer worked as documented."""
        facts = self.world.scenario.facts
        timer = (
            facts.timer_min_lead_ms is not None
            and machine.timer_lag_ms <= facts.timer_lateness_ms
            and machine.timer_wall_error_ms == 0
            and machine.had_timer
        )
        agent = facts.in_guest_stop is not None and machine.guest_stop_works and machine.had_guest
        daemon = machine.failed_stops == 0 and self.world.daemon_worked()
        return timer or agent or daemon

    def note_price_rise(self, rise_micros_per_hour: int) -> None:
        """A rise may cost until it is seen and the instance saved and stopped."""
        for job in self.world.books():
            track = self.track(job)
            if track.order is None:
                continue
            for machine in self.own_machines(job):
                if machine.is_charged:
                    reach_ms = self.world.lateness_ms(track.order)
                    quantum_ms = machine.prices.quantum_s * MS_PER_S
                    quanta = -(-reach_ms // quantum_ms) + 1
                    track.extra_micros += quanta * quantum_ms * rise_micros_per_hour // HOUR_MS

    # ------------------------------------------------------------------ verdicts

    def _check_reason(self, job: JobBooks) -> None:
        """A healthy run whose telemetry works is not paused by mistake."""
        track = self.track(job)
        if job.reason is None:
            track.judged_reason = False
        if job.reason is None or track.judged_reason or track.order is None:
            return
        track.judged_reason = True
        if job.state in FINAL_STATES:
            self.on_final(job)
        if self._is_wrong(job, track.order):
            self.figures.wrong_pauses += 1
            self.violate("wrong_pause", job.name, f"paused as {job.reason}")

    def _is_wrong(self, job: JobBooks, order: Order) -> bool:
        if not order.script.is_healthy:
            return False
        counts = self.world.faults.counts
        disturbed = any(kind in counts for kind in ("telemetry_gap", "telemetry_frozen"))
        if job.reason in GUARD_REASONS:
            return not disturbed
        troubled = any(kind in counts for kind in EXCUSES_BLIND)
        if job.reason in ("blind", "platform", "max_hours"):
            return not troubled and self.world.faults.mood == "calm"
        if job.reason == "budget":
            return not troubled and self._had_room(job, order)
        return False

    def _had_room(self, job: JobBooks, order: Order) -> bool:
        """Whether half a lease more would have fitted the cap, without rises and other caps."""
        track = self.track(job)
        if self.world.scenario.caps != Caps() or track.extra_micros:
            return False
        tariff = tariff_of(self.world.cloud.prices)
        length_ms = order.spec.lease_ms // 2
        latency_ms = self.world.latency_ms(order)
        now = self.world.clock.now()
        needed = needed_micros(tariff, None, now, length_ms, latency_ms)
        quantum = tariff.quantum_s * tariff.price_micros_per_hour // 3_600
        hold = max(job.hold_micros, hold_micros(tariff, order.spec.instance.keep_for_ms))
        return job.cap_micros - job.posted_micros - hold > needed + 2 * quantum

    # ------------------------------------------------------------------ once healed

    def check_right(self) -> None:
        """Liveness: what is charged is either covered by a lease or on its way to off."""
        now_ms = self.world.clock.now().utc_ms
        owners = {name: job for job in self.world.books() for name in job.machines}
        for machine in self.world.own():
            if not machine.is_charged or machine.power in ("stopping", "stopping again"):
                continue
            job = owners.get(machine.id)
            if job is None:
                continue  # the stray watch has its own time: see `check_end`
            covered = job.lease_end_ms is not None and now_ms < job.lease_end_ms
            if job.state == "saving" or (covered and job.reason is None):
                continue
            self.violate("liveness", machine.id, f"{machine.power} while {job.name} is {job.state}")

    def check_end(self) -> None:
        """At the very end: nothing runs, every job has ended, books and meter agree."""
        jobs = self.world.books()
        for job in jobs:
            self._check_cap(job)
            if job.state not in FINAL_STATES:
                self.violate("liveness", job.name, f"still {job.state} ({job.reason})")
            if job.pending_micros and job.state in FINAL_STATES:
                self.violate("I4", job.name, f"{job.pending_micros} pending in a final state")
        for machine in self.world.own():
            if machine.is_charged or machine.power == "starting":
                self.figures.orphans += 1
                self.violate("orphan", machine.id, f"is {machine.power} at the end")
            self.audit.check_end(machine)
