from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.store.models import Instance, PowerReadRow
from costguard.store.reads import KEPT, add_read, last_known
from tests.store.rows import add_job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.database import Store


def add_instance(session: Session, job_id: int, tag: str) -> Instance:
    """One more machine."""
    row = Instance(job_id=job_id, provider="local", tag=tag, price_micros_per_hour=1, quantum_s=1)
    session.add(row)
    session.flush()
    return row


def test_the_newest_reads_are_kept_each_instance_for_itself(store: Store) -> None:
    """A short tail is what the proof of a stop needs, and a long run is read very often."""
    with store.write() as session:
        job = add_job(session)
        busy, calm = add_instance(session, job.id, "busy"), add_instance(session, job.id, "calm")
        assert last_known(session, calm.id) is None
        add_read(session, calm.id, PowerRead(Power.STOPPED, Moment(7, 7, "boot")))
        for at_ms in range(KEPT + 5):
            add_read(session, busy.id, PowerRead(Power.RUNNING, Moment(at_ms, at_ms, "boot")))
        of = select(func.count(), func.min(PowerReadRow.begun_utc_ms))
        assert session.execute(of.where(PowerReadRow.instance_id == busy.id)).one() == (KEPT, 5)
        at_ms = KEPT + 4
        newest = PowerRead(Power.RUNNING, Moment(at_ms, at_ms, "boot"))
        assert last_known(session, busy.id) == newest
        assert last_known(session, calm.id) == PowerRead(Power.STOPPED, Moment(7, 7, "boot"))


def test_an_answer_of_unknown_does_not_hide_what_was_known_before(store: Store) -> None:
    """That it was off is what tells a rent that ended from one that began since."""
    with store.write() as session:
        instance = add_instance(session, add_job(session).id, "i")
        off = PowerRead(Power.STOPPED, Moment(7, 7, "boot"))
        add_read(session, instance.id, off)
        add_read(session, instance.id, PowerRead(Power.UNKNOWN, Moment(8, 8, "boot")))
        assert last_known(session, instance.id) == off
