"""Rows and ledger calls in whole yuan, for the tests of the books."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.store import ledger
from costguard.store.ledger import Caps, Place
from costguard.store.models import Instance, Job, LeaseRow, PowerInterval

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

YUAN = 1_000_000
PLACE = Place(0, "train")


def add_job(session: Session, name: str = "x", cap: int = 100, project: str = "p") -> Job:
    """A job with this cap in yuan."""
    job = Job(
        name=name,
        project=project,
        spec_json="{}",
        submit_key=name,
        created_ms=0,
        cap_micros=cap * YUAN,
    )
    session.add(job)
    session.flush()
    return job


def add_lease(session: Session, job: Job, months: str = "2026-11") -> LeaseRow:
    """An open lease that holds nothing yet."""
    lease = LeaseRow(
        job_id=job.id,
        seq=1,
        state="open",
        started_utc_ms=0,
        started_boot_ms=0,
        end_utc_ms=1,
        end_boot_ms=1,
        armed_end_utc_ms=1,
        boot_id="b",
        latency_ms=0,
        months=months,
        final=False,
    )
    session.add(lease)
    session.flush()
    return lease


def add_interval(session: Session, job: Job, kind: str = "running") -> PowerInterval:
    """An open power interval from time 0."""
    instance = Instance(
        job_id=job.id,
        provider="local",
        tag=f"{kind}-{job.id}",
        price_micros_per_hour=1,
        quantum_s=1,
    )
    session.add(instance)
    session.flush()
    interval = PowerInterval(
        instance_id=instance.id,
        job_id=job.id,
        kind=kind,
        price_micros_per_hour=1,
        quantum_s=1,
        started_ms=0,
        anchor_utc_ms=0,
        anchor_boot_ms=0,
        anchor_boot_id="b",
        seen_to_ms=0,
        metered_to_ms=0,
    )
    session.add(interval)
    session.flush()
    return interval


def reserve(
    session: Session, job: Job, lease: LeaseRow, yuan: int, caps: Caps | None = None
) -> None:
    """Reserve so many yuan in November."""
    ledger.reserve(session, job, lease, yuan * YUAN, caps or Caps(), 1, "2026-11")
    lease.seq += 1


def charge(
    session: Session, job: Job, interval: PowerInterval, lease: LeaseRow | None, owed: int
) -> int:
    """Bring the interval to so many yuan in all."""
    return ledger.charge(
        session, job, interval, lease, owed * YUAN, owed * 1_000, PLACE, 2, "2026-11"
    )


def pending(session: Session) -> int:
    """Everything reserved and not used, in yuan."""
    return ledger.pending_micros(session) // YUAN
