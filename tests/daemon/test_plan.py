from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.daemon.plan import latency_of
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import spec_of


@pytest.mark.parametrize(("tells_meter_end", "late_ms"), [(True, 0), (False, 7_000)])
def test_the_printed_l_has_the_poll_that_sees_the_end_of_rent(
    tells_meter_end: bool, late_ms: int
) -> None:
    """Where the platform does not say when rent ended, the books run on to the answer after it."""
    told = replace(FACTS, poll_interval_ms=5_000, cache_age_ms=2_000, stop_latency_ms=3_000)
    facts = replace(told, timer_lateness_ms=1_000, tells_meter_end=tells_meter_end)
    spec = spec_of()
    assert latency_of(spec, facts) == spec.runs[0].save_grace_ms + 4_000 + late_ms
