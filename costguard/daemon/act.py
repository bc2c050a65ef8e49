"""Act: carry out what was decided. Intent first, then the call, then its outcome.

Stopping is exempt from "intent first": if the database cannot be written the stop call is made
all the same, and written down when that is possible again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from costguard.core import actions as act
from costguard.core.calendar import month_of
from costguard.core.decide import FINAL_STATES, proven_stopped
from costguard.core.gate import judge_gate
from costguard.core.moment import ms_until
from costguard.core.tariff import hold_micros
from costguard.daemon.adopt import adopt_existing, is_adopted
from costguard.daemon.asking import arm_timer, price_of
from costguard.daemon.give_back import give_back
from costguard.daemon.left_behind import text_of_release
from costguard.daemon.let_go import let_go, rent_instead
from costguard.daemon.links import artifact_files, close_link, ensure_link
from costguard.daemon.load import job_spec, newest_instance, open_lease
from costguard.daemon.metering import close_disk, close_running
from costguard.daemon.power_off import power_off
from costguard.daemon.power_on import power_on, take_back
from costguard.daemon.rent import create, is_armed, resolve_create
from costguard.providers.base import Absent, Provider, ProviderError
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.ledger import DoesNotFit, reserve, settle
from costguard.store.models import Artifact, Instance, Job, LeaseRow
from costguard.store.restored import may_grant, unlisted
from costguard.store.stages import enter_stage
from costguard.store.visits import close_visit, end_holding

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.core.snapshot import Snapshot, Verdict
    from costguard.daemon.context import Context
    from costguard.daemon.memory import JobMemory

LOUD_EVENTS = {
    "stop_not_confirmed": "STOP NOT CONFIRMED: the instance may still cost money",
    "running_without_lease": "an instance is running that should be off; it is being stopped",
}


SEEN_STOPPED = "the meter was seen stopped"
ATTESTED = "a person attested the stop"


class Halt(Exception):
    """The action could not be completed; what follows it in this pass must not happen."""


class Actor:
    """Carries out the actions of one pass of one job."""

    def __init__(
        self,
        context: Context,
        job_id: int,
        memory: JobMemory,
        snap: Snapshot,
        provider: Provider,
        wake: Callable[[], None],
    ) -> None:
        self.context = context
        self.job_id = job_id
        self.memory = memory
        self.snap = snap
        self.provider = provider
        self.wake = wake

    def perform(self, action: act.Action) -> None:
        """Do one action. Raises Halt when the following ones must not be done."""
        handler: Callable[[act.Action], None] = HANDLERS[type(action)].__get__(self)
        handler(action)

    def now(self) -> Moment:
        """The present instant; calls take time, so it is asked for anew."""
        return self.context.clock.now()

    def month(self, moment: Moment) -> str:
        """The budget month of an instant."""
        return month_of(moment.utc_ms, self.context.zone)

    # ------------------------------------------------------------------ money

    def ask_price(self, _: act.AskPrice) -> None:
        """Learn the tariff, and hold the disk's share of the cap from the start."""
        try:
            key = self.context.client_public_key
            quote = price_of(self.provider, self.snap.spec, key, self.now())
        except ProviderError as error:
            if isinstance(error, Absent) and self.snap.spec.instance.reused:
                rent_instead(self, f"it is not there any more ({error})")
            self.context.notify("warning", self.snap.spec.name, f"no price yet: {error}")
            raise Halt from error
        self.memory.tariff = quote.tariff
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            job.hold_micros = hold_micros(quote.tariff, self.snap.spec.instance.keep_for_ms)
        self.wake()

    def grant(self, action: act.Grant) -> None:
        """Reserve, or leave everything as it was: invariant I1 is checked in the transaction."""
        now = self.now()
        end = now.plus_ms(action.length_ms)
        latest = end.plus_ms(action.latency_ms)
        months = ",".join(sorted({self.month(now), self.month(latest)}))
        has_timer = self.snap.platform.timer_min_lead_ms is not None
        try:
            with self.context.store.write() as session:
                self._refuse_while_restored(session)
                job = session.get_one(Job, self.job_id)
                lease = open_lease(session, self.job_id)
                if lease is None:
                    lease = LeaseRow(job_id=job.id, seq=0, state="open", armed_end_utc_ms=0)
                    session.add(lease)
                if self.snap.armed_end is not None:  # by a wall clock that may have been set since
                    armed_ms = now.utc_ms + ms_until(self.snap.armed_end, now)
                    lease.armed_end_utc_ms = min(lease.armed_end_utc_ms, armed_ms, end.utc_ms)
                lease.seq += 1
                lease.started_utc_ms, lease.started_boot_ms = now.utc_ms, now.boot_ms
                lease.end_utc_ms, lease.end_boot_ms = end.utc_ms, end.boot_ms
                lease.boot_id = now.boot_id
                lease.latency_ms, lease.final = action.latency_ms, action.final
                lease.months = months
                if not has_timer:
                    lease.armed_end_utc_ms = end.utc_ms
                session.flush()
                caps, month = self.context.caps(), self.month(now)
                reserve(session, job, lease, action.increment_micros, caps, now.utc_ms, month)
                if action.aside_micros:
                    aside = action.aside_micros
                    reserve(session, job, lease, aside, caps, now.utc_ms, month, aside=True)
        except (DoesNotFit, StoreUnavailable) as error:
            self.context.notify("warning", self.snap.spec.name, f"no lease: {error}")
            raise Halt from error

    def _refuse_while_restored(self, session: Session) -> None:
        """A restored database does not know what was rented since: it grants nothing blindly."""
        accounts = (*self.context.accounts(), self.snap.spec.instance.provider)
        if not may_grant(session, accounts):
            missing = ", ".join(sorted(unlisted(session, accounts)))
            text = f"no lease: this database was restored, and {missing} was not listed since"
            self.context.notify("warning", self.snap.spec.name, text)
            raise Halt

    def shorten(self, action: act.Shorten) -> None:
        """Bring the open lease's end forward; what it holds stays reserved until it is settled."""
        now = self.now()
        end = now.plus_ms(action.length_ms)
        with self.context.store.write() as session:
            lease = open_lease(session, self.job_id)
            assert lease is not None, "only an open lease can be cut"
            lease.end_utc_ms, lease.end_boot_ms, lease.boot_id = (
                end.utc_ms,
                end.boot_ms,
                end.boot_id,
            )
            lease.armed_end_utc_ms = min(lease.armed_end_utc_ms, end.utc_ms)
            lease.final, lease.cut = True, lease.cut + 1
            text = f"the caps reach no further: the lease now ends in {action.length_ms // 1000} s"
            add_event(session, self.job_id, now.utc_ms, "lease_cut", text)
        self.wake()

    def arm_timer(self, action: act.ArmTimer) -> None:
        """Move the platform's timer; only what it reads back counts as armed."""
        instance = self.snap.instance
        assert instance is not None
        assert instance.provider_id is not None, "a timer belongs to an instance"
        try:
            timer_ms = action.timer_at_ms
            back = arm_timer(self.provider, instance.provider_id, timer_ms, self.now())
        except ProviderError as error:
            self.context.notify("warning", self.snap.spec.name, f"timer not re-armed: {error}")
            return
        if not is_armed(back, action.timer_at_ms, self.provider.facts.timer_step_ms):
            text = f"the stop timer reads back {back}, not {action.timer_at_ms}"
            self.context.notify("warning", self.snap.spec.name, text)
            return
        with self.context.store.write() as session:
            lease = open_lease(session, self.job_id)
            if lease is not None and lease.end_utc_ms >= action.end_ms:
                lease.armed_end_utc_ms = lease.end_utc_ms
            row = session.get_one(Instance, instance.id)
            row.timer_at_ms = back

    # ------------------------------------------------------------------ renting

    def create(self, action: act.Create) -> None:
        """Rent, with the intent and our tag in the database before the call."""
        if not create(self, action.timer_after_ms):
            raise Halt

    def adopt(self, _: act.Adopt) -> None:
        """Take over what a person made; a refusal ends the job, and nothing is reserved for it."""
        if not adopt_existing(self):
            raise Halt

    def resolve_create(self, _: act.ResolveCreate) -> None:
        """Ask the platform what an unclear create came to."""
        resolve_create(self)

    # ------------------------------------------------------------------ the line to the agent

    def ensure_link(self, _: act.EnsureLink) -> None:
        """Keep one link per instance boot."""
        ensure_link(self)

    def send_lease(self, action: act.SendLease) -> None:
        """Grant the agent what is reserved and armed, counted from when it sent the heartbeat."""
        end, lease, heard = self.snap.armed_end, self.snap.lease, self.snap.link.heartbeat_at
        link = self.memory.link
        if end is None or lease is None or heard is None or link is None:
            return
        valid_ms = min(end.utc_ms - heard.utc_ms, end.boot_ms - heard.boot_ms)
        if end.boot_id != heard.boot_id or valid_ms <= 0:
            return
        # To the agent a lease with the same name never ends earlier: one that was cut is another.
        name = f"{lease.id}.{lease.cut}" if lease.cut else f"{lease.id}"
        message = {"t": "lease", "id": name, "heartbeat": action.heartbeat}
        if link.send({**message, "valid_ms": valid_ms, "alone": action.alone}):
            self.memory.note_leased(action.heartbeat)
            self.memory.agent_until_ms = end.utc_ms

    def save(self, action: act.Save) -> None:
        """Ask for a checkpoint and the end of the training, once."""
        link = self.memory.link
        stop_id = f"stop-{self.job_id}-{self.snap.stage}-{self.memory.attempt}"
        stop = {"t": "stop", "id": stop_id, "save": True}
        if link is not None and link.send({**stop, "grace_s": action.grace_ms / 1000}):
            self.memory.note_stop_sent()

    def pull(self, action: act.Pull) -> None:
        """Have the link bring one artifact home; the result comes back as a message."""
        link = self.memory.link
        if link is None:
            return
        with self.context.store.read() as session:
            row = session.get_one(Artifact, action.artifact_id)
            name, files = row.name, artifact_files(row)
        self.memory.pulling.add(action.artifact_id)
        link.pull(name, files)

    def power_on(self, _: act.PowerOn) -> None:
        """Switch the paused instance on again."""
        if not power_on(self):
            raise Halt

    def take_back(self, _: act.TakeBack) -> None:
        """Call off a start that only waits for a card."""
        if not take_back(self):
            raise Halt

    def rest(self, _: act.Rest) -> None:
        """Give back what was reserved for a start that did not happen."""
        assert self.snap.instance is not None
        if self.memory.unmetered:
            raise Halt
        now = self.now()
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            session.get_one(Instance, self.snap.instance.id).stopped_seen_ms = now.utc_ms
            lease = open_lease(session, self.job_id)
            if lease is not None:
                settle(session, job, lease, now.utc_ms, self.month(now))

    def let_go(self, _: act.LetGo) -> None:
        """Give what was taken unasked back to the job that had it, and rent a new one."""
        let_go(self)

    def collect(self, _: act.Collect) -> None:
        """Settle, then have the next pass switch it on: what it did alone is on its disk."""
        assert proven_stopped(self.snap), "I4: not seen stopped"
        self.rest(act.Rest())
        now = self.now()
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            job.collected = True
            text = "it switched itself off while nobody listened; switched on once more to ask why"
            add_event(session, job.id, now.utc_ms, "collect", text)
        self.wake()

    def fetched(self, action: act.Fetched) -> None:
        """It ends as it had ended before: the reason stands, and the instance goes off again."""
        now = self.now()
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            end_holding(session, job, now.utc_ms, action.text)
        self.wake()

    def next_stage(self, _: act.NextStage) -> None:
        """The next rung begins: a folder and a journal of its own on the same instance."""
        now = self.now()
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            enter_stage(session, job, job.stage + 1, now.utc_ms)
            count = len(job_spec(job).runs)
            text = f"stage {job.stage} of {count} is done, the next begins"
            gate = judge_gate(self.snap.training, self.snap.spec.stages[self.snap.stage])
            if gate is not None:
                text += f", although {gate.text}"
            add_event(session, job.id, now.utc_ms, "stage_done", text, {"stage": job.stage})
        self.wake()

    # ------------------------------------------------------------------ ending

    def conclude(self, action: act.Conclude) -> None:
        """Record the verdict; kept in memory when the database cannot take it."""
        self.conclude_now(action.verdict)

    def conclude_now(self, verdict: Verdict) -> None:
        """As `conclude`, for what a call of this very pass has shown."""
        now = self.now()
        self.memory.verdict = (verdict, now)
        self.context.notify("info", self.snap.spec.name, f"{verdict.reason}: {verdict.text}")
        self.write_verdict()

    def write_verdict(self) -> None:
        """Bring the verdict that memory holds into the database, if it is not there yet."""
        if self.memory.verdict is None:
            return
        verdict, at = self.memory.verdict
        try:
            with self.context.store.write() as session:
                job = session.get_one(Job, self.job_id)
                if job.pause_reason is None:
                    job.pause_reason = verdict.reason
                    job.verdict_text = verdict.text
                    job.verdict_json = json.dumps(verdict.evidence, ensure_ascii=False)
                    job.verdict_utc_ms, job.verdict_boot_ms = at.utc_ms, at.boot_ms
                    job.verdict_boot_id = at.boot_id
                    data = {"guard": verdict.reason, "evidence": verdict.evidence}
                    add_event(session, job.id, at.utc_ms, "verdict", verdict.text, data)
        except StoreUnavailable:
            return  # memory keeps it; the pass goes on to stop the instance
        self.memory.verdict = None

    def stop_power(self, _: act.StopPower) -> None:
        """Call the platform's stop."""
        power_off(self)

    def alarm(self, action: act.Alarm) -> None:
        """Say it aloud, and again each time it is tried."""
        text = f"{LOUD_EVENTS[action.kind]} (attempt {action.attempt}){self._by_hand()}"
        self.context.notify("alarm", self.snap.spec.name, text)
        try:
            with self.context.store.write() as session:
                now = self.now()
                add_event(session, self.job_id, now.utc_ms, action.kind, text, {"loud": True})
        except StoreUnavailable:
            return  # it was said aloud, which is what matters

    def _by_hand(self) -> str:
        """Where a person has to stop it, if nobody else can."""
        facts = self.provider.facts
        if facts.can_stop:
            return ""
        place = f" at {facts.console_url}" if facts.console_url else ""
        then = f"costguard confirm-stopped {self.snap.spec.name} --at TIME"
        return f": only you can stop it{place}; then say so: {then}"

    def release(self, _: act.Release) -> None:
        """Give the instance back; a person has asked for it and typed its name."""
        instance = self.snap.instance
        assert instance is not None
        assert instance.provider_id is not None, "nothing to release without an instance"
        try:
            if self.provider.facts.can_create:  # else it is the user's own, and stays theirs
                self.provider.release(instance.provider_id)
        except Absent:
            pass  # gone already, as an earlier unclear call may have left it
        except ProviderError as error:
            self.context.notify("warning", self.snap.spec.name, f"not released yet: {error}")
            return
        now = self.now()
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            row = session.get_one(Instance, instance.id)
            close_running(session, job, row, now, self.context.zone)
            close_disk(session, row, now.utc_ms)
            job.hold_micros = 0
            job.state = "released"
            text = text_of_release(session, job, self.provider.facts)
            row.released_ms = now.utc_ms
            add_event(session, job.id, now.utc_ms, "released", text)

    def give_back(self, _: act.GiveBack) -> None:
        """Decide, once, whether the disk may be deleted; the next pass releases it."""
        give_back(self)

    def set_state(self, action: act.SetState) -> None:
        """Show a state; an event marks the change."""
        if action.state == self.snap.state:
            return
        now = self.now()
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            if job.state in FINAL_STATES:
                return
            job.state = action.state
            add_event(session, job.id, now.utc_ms, "state", action.state)

    def finish(self, action: act.Finish) -> None:
        """Settle, and enter the final state: with the proof of I4, or nothing ever rented.

        Where no platform can prove it, a person's word ends the job too, and is shown as such.
        """
        proven = self.snap.instance is None or proven_stopped(self.snap)
        attested = self.snap.instance is not None and self.snap.instance.attested
        assert proven or attested, "I4: neither seen stopped nor attested"
        if self.memory.unmetered:
            raise Halt  # what it has cost comes first: nothing is given back before it is charged
        now = self.now()
        with self.context.store.write() as session:
            job = session.get_one(Job, self.job_id)
            instance = newest_instance(session, self.job_id)
            lease = open_lease(session, self.job_id)
            if lease is not None:
                why = SEEN_STOPPED if proven else ATTESTED
                settle(session, job, lease, now.utc_ms, self.month(now), why)
            if instance is not None and proven:
                instance.stopped_seen_ms = now.utc_ms
                seen = (
                    [read.begun.utc_ms for read in self.snap.instance.reads[-2:]]
                    if (self.snap.instance is not None)
                    else []
                )
                text = "the platform says off, twice: the meter has stopped"
                add_event(session, job.id, now.utc_ms, "stop_confirmed", text, {"seen_ms": seen})
            job.state = action.state
            job.closed_ms = now.utc_ms
            close_visit(session, job.id, now.utc_ms)
            if instance is None:
                job.hold_micros = 0
            add_event(session, job.id, now.utc_ms, "state", action.state)
        close_link(self.memory)
        self._read_bill()
        if self.snap.spec.instance.after_finish == "release":
            self.wake()  # what is to be given back need not wait for the next rare look

    def _read_bill(self) -> None:
        """The platform's own figure, for the report; its absence changes nothing."""
        instance = self.snap.instance
        if instance is None or instance.provider_id is None:
            return
        with self.context.store.read() as session:
            if is_adopted(session, session.get_one(Instance, instance.id)):
                return  # its bill began before the job did
        try:
            bill = self.provider.bill_micros(instance.provider_id)
        except ProviderError:
            return  # the reconciliation chore reads it again
        with self.context.store.write() as session:
            row = session.get_one(Instance, instance.id)
            row.bill_micros, row.bill_read_ms = bill, self.now().utc_ms


HANDLERS = {
    act.AskPrice: Actor.ask_price,
    act.Grant: Actor.grant,
    act.Create: Actor.create,
    act.Adopt: Actor.adopt,
    act.ResolveCreate: Actor.resolve_create,
    act.Shorten: Actor.shorten,
    act.PowerOn: Actor.power_on,
    act.TakeBack: Actor.take_back,
    act.Rest: Actor.rest,
    act.LetGo: Actor.let_go,
    act.Collect: Actor.collect,
    act.Fetched: Actor.fetched,
    act.NextStage: Actor.next_stage,
    act.ArmTimer: Actor.arm_timer,
    act.EnsureLink: Actor.ensure_link,
    act.SendLease: Actor.send_lease,
    act.Save: Actor.save,
    act.Pull: Actor.pull,
    act.Conclude: Actor.conclude,
    act.StopPower: Actor.stop_power,
    act.Release: Actor.release,
    act.GiveBack: Actor.give_back,
    act.Alarm: Actor.alarm,
    act.SetState: Actor.set_state,
    act.Finish: Actor.finish,
}
