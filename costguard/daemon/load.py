"""Load: one short read transaction gives the snapshot that a decision is made on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, select

from costguard.core import meter
from costguard.core.calendar import month_of
from costguard.core.lease import Lease
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import (
    ArtifactFacts,
    InstanceFacts,
    LinkFacts,
    Platform,
    Snapshot,
    TrainingFacts,
)
from costguard.core.spec import JobSpec, spec_from_json
from costguard.core.training import fold
from costguard.daemon.memory import READS_KEPT, Calls, JobMemory
from costguard.store.attest import is_attested
from costguard.store.budgets import in_force, shares_caps
from costguard.store.ledger import Caps, accounts_under, lease_remaining_micros
from costguard.store.models import (
    Artifact,
    Instance,
    Intent,
    Job,
    LeaseRow,
    PowerInterval,
    PowerReadRow,
    Telemetry,
    VisitRow,
)
from costguard.store.tariffs import tariff_of
from costguard.store.visits import visit_facts

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

    from costguard.providers.base import ProviderFacts


SPECS_KEPT = 2_048

# Built once: to put a statement together takes longer than to carry it out.
_GLANCE = (
    select(Job.stage, Job.attempt, Job.state, Instance.id, Instance.provider_id)
    .outerjoin(Instance, and_(Instance.job_id == Job.id, Instance.replaced_ms.is_(None)))
    .where(Job.id == bindparam("job_id"))
    .order_by(Instance.id.desc())
    .limit(1)
)
_NEWEST_INSTANCE = (
    select(Instance)
    .where(Instance.job_id == bindparam("job_id"), Instance.replaced_ms.is_(None))
    .order_by(Instance.id.desc())
    .limit(1)
)
_OPEN_LEASE = select(LeaseRow).where(
    LeaseRow.job_id == bindparam("job_id"), LeaseRow.state == "open"
)
_OPEN_INTERVAL = select(PowerInterval).where(
    PowerInterval.instance_id == bindparam("instance_id"),
    PowerInterval.kind == bindparam("kind"),
    PowerInterval.ended_ms.is_(None),
)
_OPEN_INTENTS = select(Intent.kind).where(
    Intent.job_id == bindparam("job_id"), Intent.state.in_(("open", "unclear"))
)
_COMPLETE_ARTIFACTS = select(
    Artifact.id, Artifact.name, Artifact.kind, Artifact.step, Artifact.pulled_ms
).where(
    Artifact.job_id == bindparam("job_id"), Artifact.stage == bindparam("stage"), Artifact.complete
)
# Four rows by one statement: what a pass of a quiet job costs is the number of its statements.
_STANDING = (
    select(Instance, PowerInterval, LeaseRow, VisitRow)
    .select_from(Job)
    .outerjoin(Instance, and_(Instance.job_id == Job.id, Instance.replaced_ms.is_(None)))
    .outerjoin(
        PowerInterval,
        and_(
            PowerInterval.instance_id == Instance.id,
            PowerInterval.kind == "running",
            PowerInterval.ended_ms.is_(None),
        ),
    )
    .outerjoin(LeaseRow, and_(LeaseRow.job_id == Job.id, LeaseRow.state == "open"))
    .outerjoin(VisitRow, and_(VisitRow.job_id == Job.id, VisitRow.closed_ms.is_(None)))
    .where(Job.id == bindparam("job_id"))
    .order_by(Instance.id.desc(), VisitRow.id.desc())
)


@lru_cache(maxsize=SPECS_KEPT)
def _spec_of(text: str) -> JobSpec:
    return spec_from_json(text)


def job_spec(job: Job) -> JobSpec:
    """The job as it was asked for."""
    return _spec_of(job.spec_json)


@dataclass(frozen=True, slots=True)
class Glance:
    """What has to be known of a job before the platform is asked: where it is, and what to ask."""

    stage: int
    attempt: int
    state: str
    has_instance: bool
    provider_id: str | None


def glance(session: Session, job_id: int) -> Glance:
    """One look at the job, far cheaper than a snapshot."""
    row = session.connection().execute(_GLANCE, {"job_id": job_id}).one()
    stage, attempt, state, instance_id, provider_id = row
    return Glance(stage, attempt, state, instance_id is not None, provider_id)


def newest_instance(session: Session, job_id: int) -> Instance | None:
    """The job's instance; None where it has none, or is to have a new one."""
    return session.scalars(_NEWEST_INSTANCE, {"job_id": job_id}).first()


def open_lease(session: Session, job_id: int) -> LeaseRow | None:
    """The job's open lease."""
    return session.scalars(_OPEN_LEASE, {"job_id": job_id}).one_or_none()


def open_interval(session: Session, instance_id: int, kind: str) -> PowerInterval | None:
    """The instance's open power interval of that kind."""
    keys = {"instance_id": instance_id, "kind": kind}
    return session.scalars(_OPEN_INTERVAL, keys).one_or_none()


def _standing(
    session: Session, job_id: int
) -> tuple[Instance | None, PowerInterval | None, LeaseRow | None, VisitRow | None]:
    """The job's instance, its open power interval, and the job's open lease and visit."""
    rows = session.execute(_STANDING, {"job_id": job_id}).all()
    instance, running, lease, visit = rows[0]
    now = [row for row in rows if row[0] is instance]
    assert all(row[1] is running for row in now), "an instance has one open power interval"
    assert all(row[2] is lease for row in now), "a job has one open lease"
    return instance, running, lease, visit


def metered(row: PowerInterval) -> meter.Metered:
    """A power interval as the meter's arithmetic takes it."""
    return meter.Metered(
        id=row.id,
        started_ms=row.started_ms,
        anchor=Moment(row.anchor_utc_ms, row.anchor_boot_ms, row.anchor_boot_id),
        seen_to_ms=row.seen_to_ms,
        metered_to_ms=row.metered_to_ms,
        posted_micros=row.posted_micros,
        tariff=tariff_of(row),
        origin_ms=row.origin_ms,
        earliest_ms=row.earliest_ms,
        seen_told_ms=row.seen_told_ms,
        seen_boot_id=row.seen_boot_id or "",
    )


def rebuild_memory(session: Session, job: Job, now: Moment) -> JobMemory:
    """A job's memory from the database alone, as it was before the daemon was last stopped.

    A training that runs counts as heard now: its silence is told from ours from here on.
    """
    memory = JobMemory(breach=job.breach)
    memory.begin(job.stage, job.attempt, training_facts(session, job))
    if memory.training.is_alive:
        memory.link_facts = LinkFacts(heard=now)
    instance = newest_instance(session, job.id)
    if instance is None:
        return memory
    memory.tariff = tariff_of(instance)
    if instance.absent_since_ms is not None:
        memory.absent_since = Moment(instance.absent_since_ms, 0, "")
    reads = select(PowerReadRow).where(PowerReadRow.instance_id == instance.id)
    latest = session.scalars(reads.order_by(PowerReadRow.id.desc()).limit(READS_KEPT)).all()
    memory.reads = [
        PowerRead(Power(row.power), Moment(row.begun_utc_ms, row.begun_boot_ms, row.boot_id))
        for row in reversed(latest)
    ]
    memory.calls = Calls(
        last=_moment(
            instance.last_call_utc_ms, instance.last_call_boot_ms, instance.last_call_boot_id
        ),
        stop_calls=instance.stop_calls,
        stop_accepted=instance.stop_accepted,
        was_on=instance.was_on,
    )
    return memory


def training_facts(session: Session, job: Job) -> TrainingFacts:
    """What the stored journal says of the job's present stage and attempt."""
    facts = TrainingFacts()
    rows = select(Telemetry.data_json).where(
        Telemetry.job_id == job.id, Telemetry.stage == job.stage, Telemetry.seq > job.first_seq
    )
    for text in session.scalars(rows.order_by(Telemetry.seq)):
        facts = fold(facts, json.loads(text))
    return facts


def load_snapshot(
    session: Session,
    job: Job,
    memory: JobMemory,
    facts: ProviderFacts,
    caps: Caps,
    zone: ZoneInfo,
    now: Moment,
) -> Snapshot:
    """The job as the database and this pass's memory have it."""
    spec = job_spec(job)
    instance, running, lease_row, visit = _standing(session, job.id)
    lease = None if lease_row is None else _lease(session, lease_row)
    months = {month_of(now.utc_ms, zone), month_of(now.utc_ms + spec.lease_ms, zone)}
    if lease_row is not None:
        months.update(lease_row.months.split(","))
    caps = in_force(session, caps)
    reason, verdict_at = (
        job.pause_reason,
        _moment(job.verdict_utc_ms, job.verdict_boot_ms, job.verdict_boot_id),
    )
    if reason is None and memory.verdict is not None:
        reason, verdict_at = memory.verdict[0].reason, memory.verdict[1]
    return Snapshot(
        spec=spec,
        platform=platform_of(facts),
        state=job.state,
        wish=job.wish,
        pause_reason=reason,
        verdict_at=verdict_at,
        created=Moment(job.created_ms, 0, ""),
        stage=job.stage,
        stage_since=_moment(job.stage_since_ms, None, None),
        # The open interval's rule knows what its price was before, the instance's only what it is.
        tariff=memory.tariff if instance is None else tariff_of(running or instance),
        instance=None
        if instance is None
        else _instance(session, spec, instance, running, memory, now),
        lease=lease,
        armed_end=_armed_end(lease_row),
        accounts=accounts_under(session, job, caps, tuple(sorted(months))),
        collected=job.collected,
        shares_caps=shares_caps(session, job, caps, tuple(months)),
        link=memory.link_facts,
        training=memory.training,
        artifacts=_artifacts(session, job, memory),
        visit=visit_facts(visit),
        retry_at_ms=job.retry_at_ms,
        open_intents=_open_intents(session, job.id),
        has_ssh=memory.ssh is not None,
        fresh_read=memory.fresh is not None,
    )


def overlay(snap: Snapshot, memory: JobMemory) -> Snapshot:
    """An older snapshot with what memory has seen since: enough to go on guarding, and to stop."""
    instance = snap.instance
    if instance is not None:
        instance = replace(instance, **_seen(memory, instance.power))
    reason, verdict_at = snap.pause_reason, snap.verdict_at
    if reason is None and memory.verdict is not None:
        reason, verdict_at = memory.verdict[0].reason, memory.verdict[1]
    return replace(
        snap,
        instance=instance,
        pause_reason=reason,
        verdict_at=verdict_at,
        link=memory.link_facts,
        training=memory.training,
        has_ssh=memory.ssh is not None,
        fresh_read=memory.fresh is not None,
    )


def _seen(memory: JobMemory, power: Power) -> dict[str, Any]:
    """The parts of the instance's facts that memory has fresher than the database."""
    return {
        "power": memory.reads[-1].power if memory.reads else power,
        "reads": tuple(memory.reads),
        "last_call": memory.calls.last,
        "stop_calls": memory.calls.stop_calls,
        "stop_accepted": memory.calls.stop_accepted,
        "was_on": memory.calls.was_on,
        "waits": memory.waits,
        "cardless": memory.cardless,
        "denied": memory.denied is not None,
    }


def platform_of(facts: ProviderFacts) -> Platform:
    """The figures that decisions need of a platform."""
    return Platform(
        poll_interval_ms=facts.poll_interval_ms,
        cache_age_ms=facts.cache_age_ms,
        stop_latency_ms=facts.stop_latency_ms,
        timer_min_lead_ms=facts.timer_min_lead_ms,
        timer_lateness_ms=facts.timer_lateness_ms,
        in_guest_stop_proven=facts.in_guest_stop_proven,
        timer_is_fixed=facts.timer_is_fixed,
        seen_late_ms=facts.seen_late_ms,
        creates_once=facts.creates_once,
    )


def _moment(utc_ms: int | None, boot_ms: int | None, boot_id: str | None) -> Moment | None:
    if utc_ms is None:
        return None
    return Moment(utc_ms, boot_ms or 0, boot_id or "")


def _lease(session: Session, row: LeaseRow) -> Lease:
    remaining = lease_remaining_micros(session, row.id)
    return Lease(
        id=row.id,
        seq=row.seq,
        started=Moment(row.started_utc_ms, row.started_boot_ms, row.boot_id),
        end=Moment(row.end_utc_ms, row.end_boot_ms, row.boot_id),
        reserved_micros=remaining,
        consumed_micros=0,
        final=row.final,
        cut=row.cut,
    )


def _armed_end(row: LeaseRow | None) -> Moment | None:
    if row is None:
        return None
    lag_ms = row.end_utc_ms - row.armed_end_utc_ms
    return Moment(row.armed_end_utc_ms, row.end_boot_ms - lag_ms, row.boot_id)


def _instance(
    session: Session,
    spec: JobSpec,
    row: Instance,
    running: PowerInterval | None,
    memory: JobMemory,
    now: Moment,
) -> InstanceFacts:
    started = row.started_call_ms
    return InstanceFacts(
        id=row.id,
        provider_id=row.provider_id,
        **_seen(memory, Power(row.power)),
        started_call=None if started is None else Moment(started, 0, ""),
        interval=None if running is None else meter.lease_interval(metered(running), now),
        absent=row.released_ms is not None
        or (bool(memory.reads) and memory.reads[-1].power is Power.RELEASED),
        stopped_seen=row.stopped_seen_ms is not None,
        attested=is_attested(row),
        lent=is_lent(session, spec, row),
        agent_until_ms=memory.agent_until_ms or row.agent_until_ms,
    )


def is_lent(session: Session, spec: JobSpec, instance: Instance) -> bool:
    """Whether it can go back to the job that had it: taken unasked, and never on since."""
    if not spec.instance.reused or spec.instance.reuse:
        return False
    ran = select(PowerInterval.id).where(
        PowerInterval.instance_id == instance.id, PowerInterval.kind == "running"
    )
    return session.scalars(ran.limit(1)).first() is None


def _open_intents(session: Session, job_id: int) -> frozenset[str]:
    rows = session.connection().execute(_OPEN_INTENTS, {"job_id": job_id})
    return frozenset(kind for (kind,) in rows)


def _artifacts(session: Session, job: Job, memory: JobMemory) -> tuple[ArtifactFacts, ...]:
    keys = {"job_id": job.id, "stage": job.stage}
    return tuple(
        ArtifactFacts(
            id=row.id,
            name=row.name,
            kind=row.kind,
            step=row.step,
            pulled=row.pulled_ms is not None,
            pulling=row.id in memory.pulling,
            failed=row.id in memory.pull_failed,
        )
        for row in session.connection().execute(_COMPLETE_ARTIFACTS, keys)
    )
