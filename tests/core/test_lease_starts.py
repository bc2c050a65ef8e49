"""What a first lease reserves where it is not known to the second when rent begins."""

from __future__ import annotations

from hypothesis import given, strategies as st

from costguard.core.calendar import Window
from costguard.core.lease import Interval, needed_micros
from costguard.core.moment import Moment
from costguard.core.tariff import Discount, Tariff, running_micros
from tests.core.tariffs import CASES, HOUR_MS, MANY, MIDNIGHT_MS

L_MS = 20_000


def test_a_start_that_may_come_just_after_a_discount_has_its_minimum_at_the_full_price() -> None:
    """The minimum has the price of the first instant: a second later it may be the day's."""
    night = Discount(0, Window(0, 1))
    tariff = Tariff(3_600, 1, minimum_s=7_200, discounts=(night,))
    midnight = Moment(MIDNIGHT_MS, 0, "boot")
    assert needed_micros(tariff, None, midnight, 1_500, 0) == 7_200


@MANY
@given(
    case=CASES,
    later_ms=st.integers(0, 2 * HOUR_MS),
    unsure_ms=st.integers(0, 2 * HOUR_MS),
    length_ms=st.integers(0, 6 * HOUR_MS),
)
def test_whenever_rent_began_the_reservation_covers_it(
    case: tuple[Tariff, int, int], later_ms: int, unsure_ms: int, length_ms: int
) -> None:
    """Of a start that is known only to lie between two instants, and of one that is to come."""
    tariff, start_ms, _ = case
    now = Moment(start_ms, 0, "boot")
    began_ms = start_ms - later_ms
    interval = Interval(1, began_ms, 0, earliest_ms=began_ms - unsure_ms)
    needed = needed_micros(tariff, interval, now, length_ms, L_MS)
    first = needed_micros(tariff, None, now, length_ms, L_MS)
    for part in range(5):
        truly_ms = began_ms - unsure_ms * part // 4
        assert running_micros(tariff, truly_ms, start_ms + length_ms + L_MS) <= needed
        soon_ms = start_ms + tariff.quantum_ms * part // 4
        assert running_micros(tariff, soon_ms, start_ms + length_ms + L_MS) <= first
