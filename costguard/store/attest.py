"""A stop that a person attests, where no platform can say it: believed for the meter, never proven.

The attestation holds for as long as nobody says otherwise: a start call of ours ends it, and a
read that shows the instance on contradicts it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from costguard.core.power import Power, PowerRead
from costguard.errors import EXIT_USAGE, UserError
from costguard.store.events import add_event
from costguard.store.models import Instance, PowerReadRow, Telemetry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

SEEN_ON = tuple(power.value for power in Power if power.seems_on)


def is_attested(instance: Instance) -> bool:
    """Whether a person's word on the stop of this instance stands, given since its last start."""
    if instance.attested_stop_ms is None or instance.attested_at_ms is None:
        return False
    return instance.attested_at_ms >= (instance.started_call_ms or 0)


def last_seen_on_ms(session: Session, instance: Instance) -> int | None:
    """The last time that the platform or the agent itself showed the instance to be on (UTC ms)."""
    reads = select(func.max(PowerReadRow.begun_utc_ms)).where(
        PowerReadRow.instance_id == instance.id, PowerReadRow.power.in_(SEEN_ON)
    )
    heard = select(func.max(Telemetry.at_ms)).where(Telemetry.job_id == instance.job_id)
    seen = [at for at in (session.scalar(reads), session.scalar(heard)) if at is not None]
    return max(seen, default=None)


def attest(session: Session, instance: Instance, at_ms: int, now_ms: int) -> None:
    """Write down that a person says the instance stopped at `at_ms`.

    Raises UserError for a time in the future, and for one at which it was seen on.
    """
    if at_ms > now_ms:
        raise _refused("that time is still to come", "give the time at which you saw it stopped")
    seen_ms = last_seen_on_ms(session, instance)
    if seen_ms is not None and at_ms < seen_ms:
        seconds = -(-(seen_ms - at_ms) // 1000)
        raise _refused(
            f"the instance was seen running {seconds} s after that time",
            "give the time of the stop, as the platform's console shows it",
        )
    instance.attested_stop_ms, instance.attested_at_ms = at_ms, now_ms


def weigh(
    session: Session, instance: Instance, read: PowerRead | None
) -> tuple[bool, PowerRead | None]:
    """Whether the meter stands still on a person's word, and the read as the meter is to take it.

    A read that says otherwise takes the word back, aloud, and the meter goes on from the attested
    stop: be it that the instance is on, or that the platform charged for longer.
    """
    if not is_attested(instance):
        return False, read
    if read is None or read.power is Power.UNKNOWN:
        return True, read
    told_at_ms, stop_ms = instance.attested_at_ms or 0, instance.attested_stop_ms or 0
    is_on = read.power.may_charge and read.begun.utc_ms >= told_at_ms
    until_ms = read.charged_until_ms
    if is_on or (until_ms is not None and until_ms > stop_ms):
        text = f"the platform says otherwise than was attested ({read.power.value}): metered again"
        data = {"attested_stop_ms": stop_ms, "charged_until_ms": until_ms, "loud": True}
        at_ms = read.begun.utc_ms
        add_event(session, instance.job_id, at_ms, "attestation_contradicted", text, data)
        instance.attested_stop_ms = instance.attested_at_ms = None
        read = replace(read, charged_since_ms=max(read.charged_since_ms or stop_ms, stop_ms))
    return False, read


def _refused(what: str, hint: str) -> UserError:
    return UserError("not_attested", what, "--at", hint, EXIT_USAGE)
