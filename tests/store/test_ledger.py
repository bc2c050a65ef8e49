from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from costguard.store import ledger
from costguard.store.ledger import Caps, DoesNotFit, Place
from costguard.store.models import Job, LedgerEntry
from tests.store.rows import YUAN, add_interval, add_job, add_lease, charge, pending, reserve

if TYPE_CHECKING:
    from costguard.store.database import Store


def test_a_reservation_up_to_the_cap_is_granted_and_a_micro_more_is_not(store: Store) -> None:
    """Invariant I1, at its edge."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        reserve(session, job, lease, 100)
        with pytest.raises(DoesNotFit, match="job x"):
            ledger.reserve(session, job, lease, 1, Caps(), 1, "2026-11")
        assert pending(session) == 100


def test_what_is_set_aside_for_a_duplicate_is_an_entry_of_its_own(store: Store) -> None:
    """Of the same lease, within the same caps, and settled with it."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        reserve(session, job, lease, 60)
        with pytest.raises(DoesNotFit, match="job x"):
            ledger.reserve(session, job, lease, 41 * YUAN, Caps(), 1, "2026-11", aside=True)
        ledger.reserve(session, job, lease, 40 * YUAN, Caps(), 1, "2026-11", aside=True)
        assert pending(session) == 100
        notes = [entry.note for entry in session.scalars(select(LedgerEntry))]
        assert notes[1] == "set aside: one create call may make two instances"
        ledger.settle(session, job, lease, 2, "2026-11")
        assert pending(session) == 0


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


@pytest.mark.parametrize("full", ["2026-11", "2026-12"])
def test_a_lease_across_two_months_needs_room_in_each(store: Store, full: str) -> None:
    """Whichever of the two is full refuses it."""
    caps = Caps(month_micros=100 * YUAN)
    with store.write() as session:
        one, two = add_job(session, "one"), add_job(session, "two")
        reserve(session, one, add_lease(session, one, full), 60, caps)
        crossing = add_lease(session, two, "2026-11,2026-12")
        with pytest.raises(DoesNotFit, match=full):
            reserve(session, two, crossing, 41, caps)
        reserve(session, two, crossing, 40, caps)


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


def test_a_charge_after_a_correction_may_reach_the_same_figure_again(store: Store) -> None:
    """Up, corrected down, and up once more are three entries, whatever figures they meet."""
    with store.write() as session:
        job = add_job(session)
        interval = add_interval(session, job)
        for at_ms in (10, 20):
            charge(session, job, interval, None, 20)
            ledger.adjust(session, job, interval, 18 * YUAN, "earlier", at_ms, "2026-11")
        charge(session, job, interval, None, 20)
        assert ledger.posted_micros(session) == 20 * YUAN


def test_two_writers_of_the_same_charge_are_one_charge(store: Store) -> None:
    """One that has not seen the other's is refused by the key, not booked twice."""
    unchecked = inspect.unwrap(ledger.charge)  # a stale view does not agree with the books
    with pytest.raises(IntegrityError, match=r"ledger\.key"), store.write() as session:
        job = add_job(session)
        interval = add_interval(session, job)
        charge(session, job, interval, None, 20)
        interval.posted_micros = 0
        unchecked(session, job, interval, None, 20 * YUAN, 1, Place(0, "train"), 2, "2026-11")


def test_a_correction_to_what_is_posted_already_is_none(store: Store) -> None:
    """And one upwards is booked as such."""
    with store.write() as session:
        job = add_job(session)
        interval = add_interval(session, job)
        charge(session, job, interval, None, 20)
        ledger.adjust(session, job, interval, 20 * YUAN, "the bill agrees", 3, "2026-11")
        assert session.query(LedgerEntry).count() == 1
        ledger.adjust(session, job, interval, 21 * YUAN, "the bill is higher", 4, "2026-11")
        assert ledger.posted_micros(session) == 21 * YUAN


def test_metering_on_without_owing_more_moves_the_meter_alone(store: Store) -> None:
    """Inside a paid hour there is nothing to book, and it never moves back."""
    with store.write() as session:
        job = add_job(session)
        interval = add_interval(session, job)
        charge(session, job, interval, None, 15)
        for to_ms in (900_000, 600_000):
            place = Place(0, "train")
            ledger.charge(session, job, interval, None, 15 * YUAN, to_ms, place, 2, "2026-11")
            assert interval.metered_to_ms == 900_000
        assert session.query(LedgerEntry).count() == 1


def test_a_charge_bears_the_place_and_time_it_was_metered_for(store: Store) -> None:
    """The report groups by them."""
    with store.write() as session:
        job = add_job(session)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 10)
        ledger.charge(
            session, job, interval, lease, 4 * YUAN, 4_000, Place(1, "save"), 5_000, "2026-12"
        )
        entry = session.query(LedgerEntry).filter_by(kind="charge").one()
        assert (entry.stage, entry.phase, entry.month, entry.project) == (1, "save", "2026-12", "p")
        assert (entry.from_ms, entry.to_ms, entry.at_ms) == (0, 4_000, 5_000)
        assert (entry.amount_micros, entry.covered_micros) == (4 * YUAN, 4 * YUAN)
        assert (entry.lease_id, entry.interval_id) == (lease.id, interval.id)


def test_what_a_settled_lease_held_covers_nothing(store: Store) -> None:
    """A charge that comes after it is overrun, and says no lease."""
    with store.write() as session:
        job = add_job(session)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 10)
        ledger.settle(session, job, lease, 3, "2026-11")
        assert charge(session, job, interval, lease, 5) == 5 * YUAN
        assert session.query(LedgerEntry).filter_by(kind="charge").one().lease_id is None


def test_nothing_is_reserved_under_a_settled_lease(store: Store) -> None:
    """It could never be given back."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        ledger.settle(session, job, lease, 3, "2026-11")
        with pytest.raises(AssertionError, match="never be given back"):
            reserve(session, job, lease, 1)


def test_a_lease_is_settled_once(store: Store) -> None:
    """Its key is used up."""
    with pytest.raises(IntegrityError), store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        ledger.settle(session, job, lease, 3, "2026-11")
        ledger.settle(session, job, lease, 4, "2026-11")


def test_a_grant_in_breach_is_refused_even_if_it_adds_nothing(store: Store) -> None:
    """I1 is about what a grant leaves, not about what it adds."""
    with store.write() as session:
        job = add_job(session, cap=10)
        lease, interval = add_lease(session, job), add_interval(session, job)
        charge(session, job, interval, None, 11)
        with pytest.raises(DoesNotFit):
            reserve(session, job, lease, 0)


def test_a_negative_reservation_is_a_mistake_of_ours(store: Store) -> None:
    """What is reserved is given back by settling alone."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        with pytest.raises(AssertionError, match="settled"):
            ledger.reserve(session, job, lease, -1, Caps(), 1, "2026-11")


def test_the_refusal_shows_the_arithmetic(store: Store) -> None:
    """Cap, spent, reserved, disk and what is left, in yuan."""
    with store.write() as session:
        job = add_job(session, cap=100)
        job.hold_micros = 5 * YUAN
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 40)
        charge(session, job, interval, lease, 30)
        with pytest.raises(DoesNotFit) as caught:
            reserve(session, job, lease, 56)
        assert str(caught.value) == (
            "job x: cap 100.00, spent 30.00, reserved 10.00, disk 5.00, left 55.00 < 56.00 yuan"
        )


def test_another_projects_jobs_do_not_count_in_this_one(store: Store) -> None:
    """Nor in a project without a cap; the month counts them all."""
    caps = Caps(month_micros=100 * YUAN, project_micros={"p": 50 * YUAN})
    with store.write() as session:
        one, two = add_job(session, "one", project="q"), add_job(session, "two")
        one.hold_micros, two.hold_micros = 7 * YUAN, 3 * YUAN
        reserve(session, one, add_lease(session, one), 60, caps)
        scopes = {
            account.scope: (account.pending_micros // YUAN, account.hold_micros // YUAN)
            for account in ledger.accounts(session, two, caps, ("2026-11", "2026-12"))
        }
        assert scopes == {
            "job two": (0, 3),
            "project p": (0, 3),
            "month 2026-11": (60, 10),
            "month 2026-12": (0, 10),
        }
        assert len(ledger.accounts(session, one, Caps(project_micros={"p": 1}), ())) == 1


def test_what_was_charged_in_a_month_stays_in_it(store: Store) -> None:
    """The next month begins with its own cap; a settled lease weighs on none."""
    caps = Caps(month_micros=100 * YUAN)
    with store.write() as session:
        job = add_job(session, cap=1_000)
        lease, interval = add_lease(session, job), add_interval(session, job)
        reserve(session, job, lease, 90, caps)
        charge(session, job, interval, lease, 80)
        ledger.settle(session, job, lease, 3, "2026-11")
        november, december = ledger.accounts(session, job, caps, ("2026-11", "2026-12"))[1:]
        assert (november.posted_micros, november.pending_micros) == (80 * YUAN, 0)
        assert (december.posted_micros, december.pending_micros) == (0, 0)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("kind = 'gift'", "kind"),
        ("amount_micros = -1, covered_micros = 0", "sign"),
        ("covered_micros = amount_micros + 1", "covered"),
        ("covered_micros = -1", "covered"),
        ("lease_id = 99", "FOREIGN KEY"),
        ("hash = (SELECT hash FROM ledger WHERE id = 2)", "UNIQUE"),
    ],
)
def test_the_database_itself_refuses_entries_that_cannot_be(
    store: Store, change: str, rule: str
) -> None:
    """Even where every line of ours was wrong."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        reserve(session, job, lease, 1)
        reserve(session, job, lease, 2)
    with pytest.raises(IntegrityError, match=rule), store.write() as session:
        session.execute(text("DROP TRIGGER ledger_no_update"))
        session.execute(text(f"UPDATE ledger SET {change} WHERE id = 1"))
    with store.read() as session:
        assert ledger.broken_links(session) == []


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        ("DELETE FROM ledger WHERE id = 2", [3]),
        ("DELETE FROM ledger WHERE id = 1", [2]),
        ("UPDATE ledger SET note = 'x' WHERE id = 3", [3]),
        ("UPDATE ledger SET at_ms = at_ms + 1", [1, 2, 3]),
        ("UPDATE ledger SET previous_hash = hash WHERE id = 2", [2]),
        ("UPDATE ledger SET hash = 'f' WHERE id = 1", [1, 2]),
    ],
)
def test_every_way_of_tampering_is_found(store: Store, tamper: str, broken: list[int]) -> None:
    """Through a plain connection, the triggers dropped first."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        for _ in range(3):
            reserve(session, job, lease, 10)
    with store.write() as session:
        for verb in ("update", "delete"):
            session.execute(text(f"DROP TRIGGER ledger_no_{verb}"))
        session.execute(text(tamper))
    with store.read() as session:
        assert ledger.broken_links(session) == broken


def test_an_entry_edited_with_its_hash_made_anew_breaks_the_next_link(store: Store) -> None:
    """One who knows the recipe has to rewrite all that follows."""
    with store.write() as session:
        job = add_job(session)
        lease = add_lease(session, job)
        for _ in range(3):
            reserve(session, job, lease, 10)
    with store.write() as session:
        session.execute(text("DROP TRIGGER ledger_no_update"))
        entry = session.get_one(LedgerEntry, 2)
        entry.amount_micros = 1
        entry.hash = ledger.entry_hash(entry)
    with store.read() as session:
        assert ledger.broken_links(session) == [3]


@pytest.mark.parametrize("field", ledger.HASHED_FIELDS)
def test_every_field_is_part_of_the_hash(store: Store, field: str) -> None:
    """No column can be changed unseen."""
    with store.write() as session:
        job = add_job(session)
        reserve(session, job, add_lease(session, job), 10)
        entry = session.query(LedgerEntry).one()
        session.expunge(entry)
        before = ledger.entry_hash(entry)
        setattr(entry, field, "changed")
        assert ledger.entry_hash(entry) != before


def test_the_hash_covers_every_column_but_its_own() -> None:
    """A column added later has to join, or be left out on purpose."""
    columns = set(LedgerEntry.__table__.columns.keys())
    assert columns - set(ledger.HASHED_FIELDS) == {"id", "hash"}


def test_what_another_job_used_up_of_a_lease_is_taken_from_its_own_job(store: Store) -> None:
    """A duplicate's charge is a job's of its own, what covers it that of the job which called."""
    with store.write() as session:
        double = add_job(session, "double")
        interval = add_interval(session, double)
        one, two = add_job(session, "one"), add_job(session, "two")
        for called, reserved, owed in ((one, 10, 4), (two, 20, 9)):
            lease = add_lease(session, called)
            reserve(session, called, lease, reserved)
            assert charge(session, double, interval, lease, owed) == 0
        assert ledger.pending_by_job(session) == {one.id: 6 * YUAN, two.id: 15 * YUAN}


def test_a_job_may_be_charged_in_the_breath_that_adds_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stray is entered and charged in one transaction: its entry names a row that is there."""
    monkeypatch.undo()  # the checks around each call would write the row themselves
    with store.write() as session:
        interval = add_interval(session, add_job(session, "called"))
        stray = Job(
            name="stray",
            project="p",
            spec_json="{}",
            submit_key="stray",
            created_ms=0,
            cap_micros=0,
        )
        with session.no_autoflush:  # as a pass records what it saw
            session.add(stray)
            assert charge(session, stray, interval, None, 4) == 4 * YUAN
        assert ledger.posted_micros(session, job_id=stray.id) == 4 * YUAN
