"""Tier 1: the pure core over books in memory; `lean_act` carries out what it decides.

The pass is the daemon's (load, observe, record, decide, act), each step as short as it can be:
what is tried out here by the million is the core's arithmetic and decisions, not the plumbing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from costguard.core import meter
from costguard.core.decide import FINAL_STATES, decide
from costguard.core.leasing import save_lead_ms
from costguard.core.moment import Moment, elapsed_ms, ms_until
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import (
    ArtifactFacts,
    InstanceFacts,
    LinkFacts,
    Snapshot,
    TrainingFacts,
)
from costguard.daemon.asking import by_the_platforms_clock, read_instance
from costguard.daemon.chores import WATCH_AGAIN_S
from costguard.daemon.links import close_link, drain
from costguard.daemon.load import platform_of
from costguard.daemon.memory import READS_KEPT, JobMemory
from costguard.daemon.passes import (
    ABSENT_AFTER_MS,
    IDLE_POLL_MS,
    RESOLVE_AGAIN_MS,
    STOPPING_PASS_MS,
    granted_ms,
)
from costguard.providers.base import Absent, ProviderError
from costguard.sim.books import Books, Purse
from costguard.sim.clock import NEVER_MS
from costguard.sim.findings import JobBooks
from costguard.sim.lean_act import Halt, act_on, take_strays
from costguard.sim.lean_meter import run_meter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.core.meter import Metered
    from costguard.core.spec import JobSpec
    from costguard.core.tariff import Tariff
    from costguard.sim.books import Entry
    from costguard.sim.scenario import Act, Order
    from costguard.sim.world import World

MOST_ROUNDS = 200
FAILED_PASS_RETRY_MS = 2_000


@dataclass
class LeanJob:
    """One job: its row, its instance's, and what a pass keeps in memory."""

    spec: JobSpec
    purse: Purse
    created: Moment
    state: str = "queued"
    wish: str = "run"
    reason: str | None = None
    verdict_at: Moment | None = None
    retry_at_ms: int | None = None
    memory: JobMemory = field(default_factory=JobMemory)
    tariff: Tariff | None = None
    # By tag: the call, the tariff, and when its lease was to end it.
    made: dict[str, tuple[Moment, Tariff | None, int]] = field(default_factory=dict)
    tag: str | None = None  # of its instance, from before the create call on
    provider_id: str | None = None
    power: Power = Power.UNKNOWN
    started_call: Moment | None = None
    was_started: bool = True  # not every start call since it was off for good was refused
    made_to_end_ms: int | None = None  # a stray: when the lease it was made under was to end it
    maker: int | None = None  # a stray: the job whose call made it
    stopped_seen: bool = False
    released: bool = False
    creates: int = 0
    intents: frozenset[str] = frozenset()
    interval: Metered | None = None
    ended: Moment | None = None  # when the last interval did
    ended_told_ms: int | None = None  # by the platform's clock
    seen_off: Moment | None = None
    disk: Metered | None = None  # what keeping its disk costs, from creation to release
    posted_by_machine: int = 0
    last_seq: int = 0
    artifacts: dict[str, ArtifactFacts] = field(default_factory=dict)
    due: Moment | None = None


class LeanHost:
    """The core in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.facts = world.scenario.facts
        self.platform = platform_of(self.facts)
        self.books_kept = Books(world.scenario.caps, on_entry=self._on_entry)
        self.jobs: dict[int, LeanJob] = {}
        self.is_broken = False
        self.owed_looks = 0  # so many times strays are to be looked for again soon
        self._again: Moment | None = None
        self._woken: set[int] = set()
        self._due: tuple[int, int] | None = None  # the nearest pass (true ms), as clocks were set
        self._view: tuple[JobBooks, ...] | None = None

    # ------------------------------------------------------------------ a daemon's life

    def boot(self) -> None:
        """Start on what the books have: what was only in memory is gone."""
        self.owed_looks, self._again = 0, None
        now = self.world.clock.now()
        for job in self.jobs.values():
            old = job.memory
            job.memory = JobMemory(training=old.training, reads=old.reads, tariff=job.tariff)
            job.memory.calls, job.memory.absent_since = old.calls, old.absent_since
            job.memory.breach = old.breach
            if old.training.is_alive:
                job.memory.link_facts = LinkFacts(heard=now)
            job.due = now
        self._due = None

    def kill(self) -> None:
        """The process is gone."""
        for job in self.jobs.values():
            close_link(job.memory)

    def unwatch(self) -> None:
        """Nobody looks at each entry any more, for measuring what a pass costs by itself."""
        self.books_kept.on_entry = lambda entry: self.changed()

    def close(self) -> None:
        """The end of the world."""

    def wake(self, job_id: int) -> None:
        """Have this job's pass run now."""
        self._woken.add(job_id)

    def work(self) -> None:
        """Run every pass that is due, however often they wake each other."""
        if self.owed_looks and self._again is None:
            self._again = self.world.clock.now().plus_ms(WATCH_AGAIN_S * 1_000)
            self._due = None
        if self._again is not None and ms_until(self._again, self.world.clock.now()) == 0:
            self.chores()
        for _ in range(MOST_ROUNDS):
            if self.quiet_ms() > 0:
                return
            now = self.world.clock.now()
            due = [
                number
                for number, job in self.jobs.items()
                if number in self._woken or (job.due is not None and ms_until(job.due, now) == 0)
            ]
            if not due:
                return
            for number in due:
                self._woken.discard(number)
                wait_ms = self._safe_pass(number, self.jobs[number])
                now = self.world.clock.now()
                self.jobs[number].due = None if wait_ms is None else now.plus_ms(wait_ms)
                self._due = None
        self.world.judge.violate("rest", "daemon", "it does not come to rest")

    def quiet_ms(self) -> int:
        """How long nothing is due."""
        if self._woken:
            return 0
        clock = self.world.clock
        if self._due is None or self._due[1] != clock.settings:
            now = clock.now()
            dues = [job.due for job in self.jobs.values() if job.due is not None]
            dues += [] if self._again is None else [self._again]
            wait_ms = min((ms_until(due, now) for due in dues), default=NEVER_MS)
            self._due = clock.true_ms + wait_ms, clock.settings
        return max(self._due[0] - clock.true_ms, 0)

    def chores(self) -> None:
        """Look for instances of ours that no job drives."""
        self.owed_looks = max(self.owed_looks - 1, 0)
        take_strays(self)
        again = self.world.clock.now().plus_ms(WATCH_AGAIN_S * 1_000)
        self._again = again if self.owed_looks else None
        self._due = None

    def submit(self, order: Order) -> bool:
        """Take a job."""
        if self.is_broken:
            return False
        number = len(self.jobs) + 1
        self.add(LeanJob(order.spec, self._purse(number, order.spec), self.world.clock.now()))
        self.world.judge.promises.on_submit(order.spec.name, None)
        return True

    def _purse(self, number: int, spec: JobSpec) -> Purse:
        purse = self.books_kept.purses[number] = Purse(
            number, spec.name, spec.cap_micros, project=spec.project
        )
        return purse

    def add(self, job: LeanJob) -> None:
        """One more job to drive."""
        self.jobs[job.purse.id] = job
        self.books_kept.purses[job.purse.id] = job.purse
        self.changed()
        self.wake(job.purse.id)

    def command(self, act: Act, cap_micros: int) -> bool:
        """What a person asks for."""
        for number, job in self.jobs.items():
            if job.spec.name == act.job and not self.is_broken:
                if act.do == "resume":
                    if not _resume(job):
                        return False
                elif act.do in ("pause", "release"):
                    job.wish = act.do
                else:
                    job.purse.cap_micros = cap_micros
                self.changed()
                self.wake(number)
                return True
        return False

    def break_store(self, kind: str | None) -> None:
        """In memory there is one way to be broken: nothing can be written."""
        self.is_broken = kind is not None

    # ------------------------------------------------------------------ the books, for the judge

    def _on_entry(self, entry: Entry) -> None:
        world = self.world
        world.trace(f"{entry.kind} {entry.purse} {entry.amount_micros} {entry.covered_micros}")
        self.changed()
        if entry.kind in ("reserve", "settle"):
            job = next(each for each in self.books() if each.id == entry.purse)
            if entry.kind == "reserve":
                world.judge.on_grant(job, self.books())
            else:
                world.judge.on_settle(job)

    def changed(self) -> None:
        """What the judge sees is made anew."""
        self._view = None

    def books(self) -> Sequence[JobBooks]:
        """Every job as the books have it."""
        if self._view is None:
            self._view = tuple(_books_of(job) for job in self.jobs.values())
        return self._view

    def posted_of(self, machine_id: str) -> int:
        """What is posted for one machine."""
        jobs = self.jobs.values()
        return sum(job.posted_by_machine for job in jobs if job.provider_id == machine_id)

    def broken_books(self) -> list[str]:
        """What is wrong with the books as a whole."""
        return self.books_kept.broken()

    # ------------------------------------------------------------------ a pass

    def _safe_pass(self, number: int, job: LeanJob) -> int | None:
        """A pass; one that fails is a violation, and is tried again."""
        try:
            return self._pass(number, job)
        except Exception as error:  # noqa: BLE001  (whatever it is, it must not have happened)
            self.world.judge.violate("crash", job.spec.name, f"a pass failed: {error!r}")
            return FAILED_PASS_RETRY_MS

    def _pass(self, number: int, job: LeanJob) -> int | None:
        """Load, observe, record, decide, act; when to look again, None: never."""
        if job.state == "released":
            return None
        now = self.world.clock.now()
        self._observe(job, now)
        if self.is_broken:
            job.memory.unmetered = job.memory.unmetered or job.memory.asked
        else:
            self._record(job, now)
        snap = by_the_platforms_clock(self.snapshot(job, now), self.world.provider, now)
        if snap.in_breach != job.memory.breach:
            job.memory.breach = snap.in_breach
            level, text = "info", "within the caps again"
            if snap.in_breach:
                level, text = "alarm", "past the cap"
            self.world.notice(level, job.spec.name, text)
        actions = decide(snap, self.world.clock.now())
        stopping = job.reason is not None
        for action in actions:
            try:
                act_on(self, job, snap, action)
            except Halt:
                break
        wait_ms = self._next_ms(job, snap, stopping=stopping or job.reason is not None)
        return min([wait_ms, *granted_ms(actions)])

    def _poll_ms(self, job: LeanJob) -> int:
        poll_ms = self.facts.poll_interval_ms
        is_idle = job.state in FINAL_STATES and not job.memory.seems_on
        return max(poll_ms, IDLE_POLL_MS) if is_idle else poll_ms

    def _next_ms(self, job: LeanJob, snap: Snapshot, *, stopping: bool) -> int:
        now = self.world.clock.now()
        memory = job.memory
        if job.tag is not None and job.provider_id is None:
            return RESOLVE_AGAIN_MS
        wait_ms = self._poll_ms(job)
        if memory.read_at is not None:
            wait_ms = max(wait_ms - elapsed_ms(memory.read_at, now), 1)
        if snap.state in FINAL_STATES:
            return wait_ms
        if stopping:
            wait_ms = min(wait_ms, STOPPING_PASS_MS)
        if snap.armed_end is not None:
            end_ms = ms_until(snap.armed_end, now) - save_lead_ms(snap)
            wait_ms = min(wait_ms, end_ms) if end_ms > 0 else wait_ms
        if snap.lease is not None:
            left_ms = ms_until(snap.lease.end, now)
            wait_ms = min(wait_ms, left_ms) if left_ms > 0 else wait_ms
        return wait_ms

    def snapshot(self, job: LeanJob, now: Moment) -> Snapshot:
        """The job as the core looks at it."""
        memory, lease = job.memory, job.purse.lease
        instance = None
        if job.tag is not None:
            instance = InstanceFacts(
                id=job.purse.id,
                provider_id=job.provider_id,
                power=memory.reads[-1].power if memory.reads else job.power,
                reads=tuple(memory.reads),
                last_call=memory.calls.last,
                stop_calls=memory.calls.stop_calls,
                stop_accepted=memory.calls.stop_accepted,
                was_on=memory.calls.was_on,
                started_call=job.started_call,
                interval=None if job.interval is None else meter.lease_interval(job.interval, now),
                absent=job.released
                or (bool(memory.reads) and memory.reads[-1].power is Power.RELEASED),
                stopped_seen=job.stopped_seen,
            )
        tariff = job.interval.tariff if job.interval is not None else job.tariff
        return Snapshot(
            spec=job.spec,
            platform=self.platform,
            state=job.state,
            wish=job.wish,
            pause_reason=job.reason,
            verdict_at=job.verdict_at,
            created=job.created,
            stage=0,
            stage_since=None,
            tariff=tariff,
            instance=instance,
            lease=None if lease is None else lease.as_core(),
            armed_end=None if lease is None else _armed_end(lease.end, lease.armed_ms),
            accounts=self.books_kept.accounts(job.purse),
            link=memory.link_facts,
            training=memory.training,
            artifacts=tuple(job.artifacts.values()),
            retry_at_ms=job.retry_at_ms,
            open_intents=job.intents,
            has_ssh=memory.ssh is not None,
            fresh_read=memory.fresh is not None,
        )

    # ------------------------------------------------------------------ observe and record

    def _observe(self, job: LeanJob, now: Moment) -> None:
        memory = job.memory
        memory.fresh, memory.gone, memory.asked = None, None, False
        memory.pulled += drain(memory, now)
        if job.provider_id is None or job.released:
            return
        if memory.read_at is not None and elapsed_ms(memory.read_at, now) < self._poll_ms(job):
            return
        memory.read_at, memory.asked = now, True
        try:
            memory.take_read(read_instance(self.world.provider, job.provider_id, now))
        except Absent:
            memory.absent_since = memory.absent_since or now
            read = PowerRead(Power.UNKNOWN, now)
            if elapsed_ms(memory.absent_since, now) >= ABSENT_AFTER_MS:
                read = memory.gone = PowerRead(Power.RELEASED, now, charging=False)
            memory.reads = [*memory.reads, read][-READS_KEPT:]
        except ProviderError as error:
            self.world.notice("warning", job.spec.name, f"the platform did not answer: {error}")

    def _record(self, job: LeanJob, now: Moment) -> None:
        """Write what was seen, and what it cost, in one go: before it, or after it, a death."""
        memory = job.memory
        if not (memory.unsaved or memory.pulled or memory.asked):
            return
        self.world.point("before a commit")
        for message in memory.unsaved:
            job.last_seq = max(job.last_seq, int(message["seq"]))
            found = message if message["t"] == "checkpoint" else message.get("artifact")
            if found and found["name"] not in job.artifacts:
                number, kind = len(job.artifacts) + 1, str(found["kind"])
                job.artifacts[found["name"]] = ArtifactFacts(
                    number, found["name"], kind, int(found["step"]), False, False, False
                )
        for message in memory.pulled:
            name = str(message["name"])
            job.artifacts[name] = replace(job.artifacts[name], pulled=True, pulling=False)
        memory.unsaved.clear()
        memory.pulled.clear()
        if memory.asked:
            run_meter(self, job, now)
            memory.unmetered = memory.shown_on = False
            memory.off_before = memory.off_after = None
        self.world.point("after a commit")


def _resume(job: LeanJob) -> bool:
    """Have a paused job go on, as `daemon/resume` does; the next pass looks at the money first."""
    if job.state not in ("paused", "failed") or job.released:
        return False
    close_link(job.memory)
    job.memory.training, job.memory.verdict = TrainingFacts(), None
    if job.provider_id is None:
        job.tariff = None  # nothing was rented, and nothing is held for its disk: asked anew
    job.state, job.wish, job.reason = "queued", "run", None
    job.verdict_at = job.retry_at_ms = None
    return True


def _armed_end(end: Moment, armed_ms: int) -> Moment:
    return Moment(armed_ms, end.boot_ms - (end.utc_ms - armed_ms), end.boot_id)


def _books_of(job: LeanJob) -> JobBooks:
    purse, lease = job.purse, job.purse.lease
    return JobBooks(
        purse.id,
        purse.name,
        job.spec.project,
        job.state,
        job.reason,
        purse.cap_micros,
        purse.hold_micros,
        purse.posted_micros,
        purse.pending_micros,
        purse.overrun_micros,
        () if job.provider_id is None else (job.provider_id,),
        None if lease is None else lease.end.utc_ms,
        None if lease is None else lease.armed_ms,
    )
