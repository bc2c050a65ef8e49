"""What the platform said of an instance's power, read by read: a short tail is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, insert, select

from costguard.core.power import Power
from costguard.store.models import PowerReadRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.power import PowerRead

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
    select(PowerReadRow.power, PowerReadRow.begun_utc_ms)
    .where(_OF_INSTANCE)
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


def last_read(session: Session, instance_id: int) -> tuple[Power, int] | None:
    """The newest read: what it showed, and when it was begun (UTC ms); None before the first."""
    row = session.connection().execute(_LAST, {"of": instance_id}).first()
    return None if row is None else (Power(row.power), row.begun_utc_ms)
