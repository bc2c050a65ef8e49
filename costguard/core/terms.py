"""Under which terms an interval is metered: what it opens under, and from when on others hold.

A platform names its price with a read, and says neither since when nor, most of them, when rent
began. Of what may be true the dearer counts, until it tells more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.core.meter import CLOCKS_AGREE_MS, ahead_of_ms, reach_ms
from costguard.core.money import ceil_div
from costguard.core.tariff import S_PER_HOUR, price_micros, price_points_ms

if TYPE_CHECKING:
    from costguard.core.meter import Metered, MeterStep
    from costguard.core.moment import Moment
    from costguard.core.power import PowerRead
    from costguard.core.tariff import Tariff


def change_at_ms(interval: Metered, new: Tariff, read: PowerRead | None, now: Moment) -> int | None:
    """From when on to charge by `new` terms, which the platform did not have when last looked at.

    They changed at some time between two reads: a rise is taken to have come right after the
    earlier one, a fall only now, so that the books are never the lower ones for long. None: not at
    all, since the read that tells of a fall shows that it was over by then.
    """
    now_ms = max(reach_ms(interval, now), interval.seen_to_ms)
    if price_micros(new, now_ms) > price_micros(interval.tariff, now_ms):
        return interval.seen_to_ms
    return now_ms if read is None or read.is_charging else None


def terms_of(interval: Metered, new: Tariff, read: PowerRead | None) -> Tariff:
    """`new` terms for an interval: the platform's clock as it is to the time it is metered in.

    That time goes on where our wall clock is set: what the clocks were apart when it began stays,
    unless the platform tells otherwise, as it may after a boot anew.
    """
    known_ms = interval.tariff.ahead_ms
    if read is None or read.told_at_ms is None:
        return new.told_ahead(known_ms)
    ahead_ms = read.told_at_ms - reach_ms(interval, read.begun)
    if abs(ahead_ms - known_ms) < CLOCKS_AGREE_MS:
        return new.told_ahead(known_ms)
    return new.told_ahead(ahead_of_ms(read.told_at_ms, reach_ms(interval, read.begun)))


def opening_tariff(known: Tariff, told: Tariff, at_ms: int) -> Tariff:
    """The terms to open an interval under, of those known before and those told at `at_ms`.

    The dearer ones: a fall is taken to have come only with the read that tells of it (and is then
    charged from the next one on), a rise to have been there when rent began.
    """
    known = known.told_ahead(told.ahead_ms)
    return known if price_micros(known, at_ms) > price_micros(told, at_ms) else told


def dearest_least(tariff: Tariff, read: PowerRead, step: MeterStep) -> Tariff:
    """The terms to open an interval under whose first instant nobody told: its minimum is dearest.

    What a start costs at least has the price of that instant, which may be any up to the read.
    """
    if step.open_at_ms is None or read.charged_since_ms is not None or not tariff.minimum_s:
        return tariff
    points_ms = price_points_ms(tariff, step.open_at_ms, read.begun.utc_ms)
    price = max(price_micros(tariff, at_ms) for at_ms in (step.open_at_ms, *points_ms))
    least = ceil_div(tariff.minimum_s * price, S_PER_HOUR)
    return replace(tariff, minimum_micros=max(tariff.minimum_micros, least))
