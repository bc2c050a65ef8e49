from __future__ import annotations

from dataclasses import replace

from costguard.core.tariff import Tariff
from costguard.daemon import plan
from costguard.sim.promise import hourly_micros
from tests.daemon.fake_cloud import FACTS

LATE_TIMER = replace(FACTS, arms_timer_at_create=False)
NOTHING_ARMED = replace(
    LATE_TIMER, timer_min_lead_ms=None, in_guest_stop=None, in_guest_stop_proven=False
)


def test_the_price_of_an_unbounded_hour_is_read_off_what_is_printed() -> None:
    """Of both lines that name one."""
    tariff = Tariff(12_345_678)
    for facts in (LATE_TIMER, NOTHING_ARMED):
        assert hourly_micros(plan._bounds(facts, tariff, 0)) == 12_345_678


def test_where_no_such_hour_is_printed_there_is_none() -> None:
    """Other lines name sums as well."""
    assert hourly_micros(["the budget may not reach: 3.20 yuan at most"]) is None
