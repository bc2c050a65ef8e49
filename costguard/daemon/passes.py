"""A pass for one job: load, observe, record, decide, act. The only place where these meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core import actions as act
from costguard.core.decide import FINAL_STATES, decide
from costguard.core.leasing import save_lead_ms
from costguard.core.moment import Moment, elapsed_ms, ms_until
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import LinkFacts
from costguard.daemon.act import Actor, Halt
from costguard.daemon.asking import by_the_platforms_clock, read_instance
from costguard.daemon.foresee import note_forecast
from costguard.daemon.links import artifacts_home, close_link, drain
from costguard.daemon.load import (
    Glance,
    glance,
    job_spec,
    load_snapshot,
    newest_instance,
    overlay,
    rebuild_memory,
    training_facts,
)
from costguard.daemon.memory import READS_KEPT, JobMemory
from costguard.daemon.power_off import note_calls
from costguard.daemon.quiet import note_quiet, quiet_ms
from costguard.daemon.record import record_pass
from costguard.providers.base import Absent, Provider, ProviderError
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.models import Artifact, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from costguard.core.snapshot import Snapshot
    from costguard.daemon.context import Context
    from costguard.remote.link import LinkPlan

# Absent is unknown until it has been absent for so long (invariant I4).
ABSENT_AFTER_MS = 600_000
# What is finished is looked at rarely: someone may switch it on in the platform's own console.
IDLE_POLL_MS = 60_000
# Saving and stopping have deadlines of their own, whatever the platform's poll is.
STOPPING_PASS_MS = 1_000
RESOLVE_AGAIN_MS = 500
PULL_RETRIES = 2


def granted_ms(actions: tuple[act.Action, ...]) -> list[int]:
    """How far the leases of this pass reach: where nothing is armed, the daemon keeps to it."""
    granted = (action.length_ms for action in actions if isinstance(action, act.Grant))
    return [length_ms for length_ms in granted if length_ms > 0]


class JobPasses:
    """The passes of one job, with the memory that they share. Never two at a time."""

    def __init__(self, context: Context, job_id: int, wake: Callable[[], None]) -> None:
        self.context = context
        self.job_id = job_id
        self.wake = wake
        self._memory: JobMemory | None = None
        self._name = f"job {job_id}"
        self._provider_name = ""
        self._failed_pulls: dict[int, int] = {}

    def run(self) -> int:
        """One pass; returns how many milliseconds from now the next is due at the latest."""
        context = self.context
        now = context.clock.now()
        memory, provider = self._open(now)
        self._observe(memory, provider, self._glance(memory), now)
        self._record(memory, provider, now)
        snap = self._load(memory, provider, now)
        actor = Actor(context, self.job_id, memory, snap, provider, self.wake)
        actor.write_verdict()
        self._note_breach(memory, snap, now)
        note_forecast(context, self.job_id, memory, snap, now)
        actions = decide(snap, context.clock.now())
        self._act(actor, actions)
        is_stopping = snap.pause_reason is not None or act.Conclude in map(type, actions)
        wait_ms = self._next_ms(memory, snap, provider, is_stopping=is_stopping)
        return min([wait_ms, *granted_ms(actions)])

    def close(self) -> None:
        """Let go of the line to the agent; the agent and its lease go on without us."""
        if self._memory is not None:
            close_link(self._memory)

    @property
    def upload(self) -> dict[str, object] | None:
        """How far the upload has come, for the screen."""
        return None if self._memory is None else self._memory.upload

    @property
    def way_in(self) -> LinkPlan | None:
        """Where the instance is reached for a visit; None while the agent does not hold it."""
        memory = self._memory
        if memory is None or not memory.holds or memory.link_facts.state != "attached":
            return None
        return None if memory.link is None else memory.link.plan

    # ------------------------------------------------------------------ load

    def _open(self, now: Moment) -> tuple[JobMemory, Provider]:
        """The memory, rebuilt at the first pass, and the platform's adapter."""
        if self._memory is None:
            with self.context.store.read() as session:
                job = session.get_one(Job, self.job_id)
                self._name = job.name
                self._provider_name = job_spec(job).instance.provider
                self._memory = rebuild_memory(session, job, now)
        provider = self.context.provider(self._provider_name)
        self._memory.keeps_timer = provider.facts.timer_is_fixed
        return self._memory, provider

    def _glance(self, memory: JobMemory) -> Glance:
        """Where the job is; as it was when it was last loaded, if the database cannot be read."""
        try:
            with self.context.store.read() as session:
                seen = glance(session, self.job_id)
                self._follow(session, memory, seen)
                return seen
        except StoreUnavailable:
            snap = memory.snapshot
            if snap is None:
                raise
        instance = snap.instance
        provider_id = None if instance is None else instance.provider_id
        return Glance(memory.stage, memory.attempt, snap.state, instance is not None, provider_id)

    def _follow(self, session: Session, memory: JobMemory, seen: Glance) -> None:
        """Go on with another stage or attempt, where the job has come to one since."""
        if (seen.stage, seen.attempt) == (memory.stage, memory.attempt):
            return
        heard = memory.link_facts.heard if seen.attempt == memory.attempt else None
        close_link(memory)
        memory.link_facts = LinkFacts(heard=heard)  # a stage does not end a silence
        facts = training_facts(session, session.get_one(Job, self.job_id))
        memory.begin(seen.stage, seen.attempt, facts)
        if not seen.has_instance:
            memory.forget_instance()

    def _load(self, memory: JobMemory, provider: Provider, now: Moment) -> Snapshot:
        """The job as the database has it; as it was, with what was seen since, if that fails."""
        try:
            with self.context.store.read() as session:
                job = session.get_one(Job, self.job_id)
                if (job.stage, job.attempt) != (memory.stage, memory.attempt):
                    self._follow(session, memory, glance(session, self.job_id))
                caps, zone = self.context.caps(), self.context.zone
                snap = load_snapshot(session, job, memory, provider.facts, caps, zone, now)
                snap = by_the_platforms_clock(snap, provider, now)
        except StoreUnavailable:
            if memory.snapshot is None:
                raise
            snap = overlay(memory.snapshot, memory)
        memory.snapshot = snap
        return snap

    # ------------------------------------------------------------------ observe

    def _observe(self, memory: JobMemory, provider: Provider, seen: Glance, now: Moment) -> None:
        """Ask the platform when it is time to, and take what the link has pushed."""
        memory.fresh, memory.gone, memory.asked = None, None, False
        memory.pulled += drain(memory, now)
        if seen.provider_id is None or seen.state == "released":
            return
        if quiet_ms(memory, now) > 0:
            return
        if memory.read_at is not None:
            since_ms = elapsed_ms(memory.read_at, now)
            if since_ms < self._poll_ms(seen.state, provider, memory):
                return
        memory.read_at, memory.asked = now, True
        try:
            memory.take_read(read_instance(provider, seen.provider_id, now))
        except Absent:
            self._note_absent(memory, now)
        except ProviderError as error:
            note_quiet(memory, error, now)
            self.context.notify("warning", self._name, f"the platform did not answer: {error}")

    def _poll_ms(self, state: str, provider: Provider, memory: JobMemory) -> int:
        """How often the platform is asked: less often of what nothing is to run on, and is off."""
        poll_ms = provider.facts.poll_interval_ms
        is_idle = state in FINAL_STATES and not memory.seems_on
        return max(poll_ms, IDLE_POLL_MS) if is_idle else poll_ms

    def _note_absent(self, memory: JobMemory, now: Moment) -> None:
        """An instance that is not there is unknown, and only after long absence released."""
        memory.absent_since = memory.absent_since or now
        read = PowerRead(Power.UNKNOWN, now)
        if elapsed_ms(memory.absent_since, now) >= ABSENT_AFTER_MS:
            read = memory.gone = PowerRead(Power.RELEASED, now, charging=False)
        memory.reads = [*memory.reads, read][-READS_KEPT:]

    # ------------------------------------------------------------------ record

    def _record(self, memory: JobMemory, provider: Provider, now: Moment) -> None:
        """Write what was seen; what cannot be written now is kept and written later."""
        if not (memory.unsaved or memory.pulled or memory.asked or memory.preparing):
            return
        memory.unmetered = memory.unmetered or memory.asked
        try:
            with self.context.store.write() as session:
                job = session.get_one(Job, self.job_id)
                with session.no_autoflush:
                    instance = newest_instance(session, self.job_id)
                    facts, zone = provider.facts, self.context.zone
                    record_pass(session, job, instance, memory, now, zone, facts)
                job.forecast_json = memory.forecast_json or job.forecast_json
                for message in memory.pulled:
                    self._record_pulled(session, job, memory, message, now)
                if instance is not None:
                    note_calls(instance, memory.calls)
                    instance.agent_until_ms = memory.agent_until_ms or instance.agent_until_ms
                last_seq = job.last_seq
        except StoreUnavailable as error:
            if not memory.store_alarmed:
                text = f"cannot be recorded, the instance is guarded all the same: {error}"
                self.context.notify("alarm", self._name, text)
            memory.store_alarmed = True
            return
        memory.store_alarmed = False
        memory.unmetered = memory.unmetered and not memory.asked
        if memory.asked:
            memory.shown_on, memory.off_before, memory.off_after = False, None, None
        if memory.unsaved and memory.link is not None:
            memory.link.send({"t": "ack", "seq": last_seq})
        memory.unsaved.clear()
        memory.pulled.clear()
        memory.preparing.clear()
        memory.forecast_json = None

    def _note_breach(self, memory: JobMemory, snap: Snapshot, now: Moment) -> None:
        """Show, aloud, that facts have gone past a cap; or that the cap was raised above them."""
        if snap.in_breach == memory.breach:
            return
        over = [account.scope for account in snap.accounts if account.in_breach]
        text = f"past the cap: {', '.join(over)}" if over else "within the caps again"
        self.context.notify("alarm" if over else "info", self._name, text)
        try:
            with self.context.store.write() as session:
                session.get_one(Job, self.job_id).breach = snap.in_breach
                kind = "breach" if over else "breach_ended"
                add_event(session, self.job_id, now.utc_ms, kind, text, {"over": over})
        except StoreUnavailable:
            return  # it was said; the next pass writes it
        memory.breach = snap.in_breach

    def _record_pulled(
        self,
        session: Session,
        job: Job,
        memory: JobMemory,
        message: Mapping[str, Any],
        now: Moment,
    ) -> None:
        """The end of a download: the artifact is home, or will be tried again a few times."""
        query = select(Artifact).where(Artifact.job_id == job.id, Artifact.stage == job.stage)
        name = message.get("name")
        for row in session.scalars(query.where(Artifact.name == name)):
            memory.pulling.discard(row.id)
            if message.get("ok"):
                row.pulled_ms = now.utc_ms
                row.path = str(artifacts_home(job_spec(job), job.stage) / row.name)
                text = f"{row.name} is home and verified"
                add_event(session, job.id, now.utc_ms, "pulled", text, {"path": row.path})
                continue
            failures = self._failed_pulls[row.id] = self._failed_pulls.get(row.id, 0) + 1
            if failures > PULL_RETRIES:
                memory.pull_failed.add(row.id)
            text = f"{row.name} could not be brought home: {message.get('detail')}"
            add_event(session, job.id, now.utc_ms, "pull_failed", text)
            self.context.notify("warning", self._name, text)

    # ------------------------------------------------------------------ act

    def _act(self, actor: Actor, actions: tuple[act.Action, ...]) -> None:
        for action in actions:
            try:
                actor.perform(action)
            except Halt:
                return
            except StoreUnavailable as error:
                if isinstance(action, (act.SetState, act.EnsureLink)):
                    continue  # what is shown can wait; what must be stopped cannot
                self.context.notify("alarm", self._name, f"{type(action).__name__}: {error}")
                return

    def _next_ms(
        self, memory: JobMemory, snap: Snapshot, provider: Provider, *, is_stopping: bool
    ) -> int:
        """The platform's next poll or the nearest deadline; whatever happens earlier wakes us."""
        now = self.context.clock.now()
        if snap.instance is not None and snap.instance.provider_id is None:
            return max(RESOLVE_AGAIN_MS, quiet_ms(memory, now))
        poll_ms = self._poll_ms(snap.state, provider, memory)
        if memory.read_at is not None:
            poll_ms = max(poll_ms - elapsed_ms(memory.read_at, now), quiet_ms(memory, now), 1)
        if snap.state in FINAL_STATES:
            return poll_ms
        waits_ms = [poll_ms]
        if is_stopping:
            waits_ms.append(STOPPING_PASS_MS)
        if snap.armed_end is not None:
            waits_ms.append(ms_until(snap.armed_end, now) - save_lead_ms(snap))
        if snap.lease is not None:
            waits_ms.append(ms_until(snap.lease.end, now))
        return min(wait_ms for wait_ms in waits_ms if wait_ms > 0)
