"""Moments, reads and an open interval for the meter's tests: one micro-yuan a second."""

from __future__ import annotations

from costguard.core.meter import Metered
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Tariff


def at(ms: int) -> Moment:
    """An instant of one boot."""
    return Moment(ms, ms, "boot")


def on(ms: int, **told: int) -> PowerRead:
    """A read that shows it on."""
    return PowerRead(Power.RUNNING, at(ms), **told)  # type: ignore[arg-type]  # only times are told


def off(ms: int, **told: int) -> PowerRead:
    """A read that shows it off."""
    return PowerRead(Power.STOPPED, at(ms), **told)  # type: ignore[arg-type]  # as above


OPEN = Metered(1, 1_000, at(2_000), 5_000, 5_000, 0, Tariff(3_600, 1))
