"""What the platform said of an instance's power, read by read: a short tail is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, insert, select

from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.store.models import PowerReadRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

KEPT = 50

# Built once: to put a statement together takes longer than to carry it out.
_ADD = insert(PowerReadRow)
_OF_INSTANCE = PowerReadRow.instance_id == bindparam("of")
_NEWEST_FIRST = PowerReadRow.id.desc()
_CUT = delete(PowerReadRow).where(
    _OF_INSTANCE,
    PowerReadRow.id
    <= select(PowerReadRow.id)
    .where(_OF_INSTANCE)
    .order_by(_NEWEST_FIRST)
    .offset(KEPT)
    .limit(1)
    .scalar_subquery(),
)
_LAST = (
    select(
        PowerReadRow.power,
        PowerReadRow.begun_utc_ms,
        PowerReadRow.begun_boot_ms,
        PowerReadRow.boot_id,
    )
    .where(_OF_INSTANCE, PowerReadRow.power != Power.UNKNOWN.value)
    .order_by(_NEWEST_FIRST)
    .limit(1)
)


def add_read(session: Session, instance_id: int, read: PowerRead) -> None:
    """Keep this read, and let go of what is older than the newest 50."""
    row = {
        "instance_id": instance_id,
        "power": read.power.value,
        "begun_utc_ms": read.begun.utc_ms,
        "begun_boot_ms": read.begun.boot_ms,
        "boot_id": read.begun.boot_id,
    }
    connection = session.connection()
    connection.execute(_ADD, row)
    connection.execute(_CUT, {"of": instance_id})


def last_known(session: Session, instance_id: int) -> PowerRead | None:
    """The newest read that was not an answer of unknown, as far as it is kept; None if none is."""
    row = session.connection().execute(_LAST, {"of": instance_id}).first()
    if row is None:
        return None
    return PowerRead(Power(row.power), Moment(row.begun_utc_ms, row.begun_boot_ms, row.boot_id))
