from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from costguard.store import ledger
from costguard.store.ledger import Caps, DoesNotFit, Place
from costguard.store.models import Instance, Job, LeaseRow, LedgerEntry, PowerInterval

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.database import Store

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
        job_id=job.id, provider="local", tag=f"t{job.id}", price_micros_per_hour=1, quantum_s=1
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


def test_a_reservation_up_to_the_cap_is_granted_and_a_micro_more_is_not(store: Store) -> None:
    """Invariant I1, at its edge."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        reserve(session, job, lease, 100)
        with pytest.raises(DoesNotFit, match="job x"):
            ledger.reserve(session, job, lease, 1, Caps(), 1, "2026-11")
        assert pending(session) == 100


def test_the_projects_cap_counts_all_its_jobs(store: Store) -> None:
    """Two jobs share it."""
    caps = Caps(project_micros={"p": 120 * YUAN})
    with store.write() as session:
        one, two = add_job(session, "one"), add_job(session, "two")
        reserve(session, one, add_lease(session, one), 100, caps)
        lease = add_lease(session, two)
        with pytest.raises(DoesNotFit, match="project p"):
            reserve(session, two, lease, 21, caps)
        reserve(session, two, lease, 20, caps)
        assert pending(session) == 120


def test_a_lease_across_two_months_is_reserved_in_both(store: Store) -> None:
    """Whichever month it ends up in, the money is there."""
    caps = Caps(month_micros=100 * YUAN)
    with store.write() as session:
        one, two = add_job(session, "one"), add_job(session, "two")
        reserve(session, one, add_lease(session, one, "2026-11,2026-12"), 60, caps)
        for months in ("2026-11", "2026-12"):
            lease = add_lease(session, two, months)
            with pytest.raises(DoesNotFit, match=months):
                reserve(session, two, lease, 41, caps)
            lease.state = "settled"


def test_the_disks_hold_is_part_of_the_cap(store: Store) -> None:
    """F is spoken for."""
    with store.write() as session:
        job = add_job(session)
        job.hold_micros = 30 * YUAN
        lease = add_lease(session, job)
        with pytest.raises(DoesNotFit):
            reserve(session, job, lease, 71)
        reserve(session, job, lease, 70)
        assert pending(session) == 70


def test_a_charge_uses_up_its_reservation(store: Store) -> None:
    """Consumed in the same transaction, so nothing is counted twice."""
    with store.write() as session:
        job = add_job(session)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 50)
        assert charge(session, job, interval, lease, 20) == 0
        assert (pending(session), ledger.posted_micros(session) // YUAN) == (30, 20)


def test_the_same_charge_twice_is_one_charge(store: Store) -> None:
    """What is owed is cumulative: saying it again adds nothing."""
    with store.write() as session:
        job = add_job(session)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 50)
        charge(session, job, interval, lease, 20)
        charge(session, job, interval, lease, 20)
        assert ledger.posted_micros(session) == 20 * YUAN


def test_what_no_lease_covers_is_charged_and_told_as_overrun(store: Store) -> None:
    """Facts are always recorded, past the lease and past the cap."""
    with store.write() as session:
        job = add_job(session, cap=10)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 10)
        assert charge(session, job, interval, lease, 25) == 15 * YUAN
        assert charge(session, job, interval, None, 30) == 5 * YUAN
        account = ledger.accounts(session, job, Caps(), ())[0]
        assert account.in_breach


def test_settling_gives_back_what_was_not_used(store: Store) -> None:
    """And closes the lease."""
    with store.write() as session:
        job = add_job(session)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 50)
        charge(session, job, interval, lease, 20)
        ledger.settle(session, job, lease, 3, "2026-11")
        assert (pending(session), lease.state) == (0, "settled")


def test_a_correction_says_why_and_changes_no_entry(store: Store) -> None:
    """The books grow by an adjustment."""
    with store.write() as session:
        job = add_job(session)
        interval = add_interval(session, job)
        charge(session, job, interval, None, 20)
        ledger.adjust(session, job, interval, 18 * YUAN, "stopped earlier", 4, "2026-11")
        assert ledger.posted_micros(session) == 18 * YUAN
        notes = [entry.note for entry in session.query(LedgerEntry).filter_by(kind="adjust")]
        assert notes == ["stopped earlier"]


def test_the_disk_is_paid_from_its_hold_and_not_from_the_lease(store: Store) -> None:
    """Charging the disk frees as much of F."""
    with store.write() as session:
        job = add_job(session)
        job.hold_micros = 5 * YUAN
        lease, disk = add_lease(session, job), add_interval(session, job, "disk")
        reserve(session, job, lease, 50)
        assert charge(session, job, disk, None, 3) == 0
        assert (job.hold_micros, pending(session)) == (2 * YUAN, 50)


@pytest.mark.parametrize("change", ["UPDATE ledger SET amount_micros = 1", "DELETE FROM ledger"])
def test_the_database_refuses_to_change_the_books(store: Store, change: str) -> None:
    """I5 is the database's, not ours to forget."""
    with store.write() as session:
        job = add_job(session)
        reserve(session, job, add_lease(session, job), 10)
    with pytest.raises(IntegrityError, match="append-only"), store.write() as session:
        session.execute(text(change))


def test_an_edited_entry_breaks_the_chain(store: Store) -> None:
    """Even if someone takes the trigger away first."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        for _ in range(3):
            reserve(session, job, lease, 10)
    with store.write() as session:
        session.execute(text("DROP TRIGGER ledger_no_update"))
        session.execute(text("UPDATE ledger SET amount_micros = 1 WHERE id = 2"))
    with store.read() as session:
        assert ledger.broken_links(session) == [2]


def test_one_key_is_one_entry(store: Store) -> None:
    """The same grant cannot be written twice."""
    with pytest.raises(IntegrityError), store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        ledger.reserve(session, job, lease, YUAN, Caps(), 1, "2026-11")
        ledger.reserve(session, job, lease, YUAN, Caps(), 1, "2026-11")


def test_every_ledger_call_was_checked(store: Store, checked: list[str]) -> None:
    """The instrumentation itself is alive."""
    with store.write() as session:
        job = add_job(session)
        reserve(session, job, add_lease(session, job), 1)
    assert checked == ["reserve"]
