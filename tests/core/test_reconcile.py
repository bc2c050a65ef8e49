from __future__ import annotations

import pytest

from costguard.core.reconcile import HIGH_BILL_AFTER_MS, LOW_BILL_AFTER_MS, Comparison, compare

DAY_MS = LOW_BILL_AFTER_MS


@pytest.mark.parametrize(
    ("bill", "stopped_for_ms", "wanted"),
    [
        (1_000, DAY_MS, Comparison(0, is_agreed=True, adjust_micros=0)),
        (1_010, DAY_MS, Comparison(10, is_agreed=True, adjust_micros=0)),
        (990, DAY_MS, Comparison(-10, is_agreed=True, adjust_micros=0)),
        (1_011, HIGH_BILL_AFTER_MS, Comparison(11, is_agreed=False, adjust_micros=11)),
        (1_011, HIGH_BILL_AFTER_MS - 1, Comparison(11, is_agreed=False, adjust_micros=0)),
        (989, DAY_MS, Comparison(-11, is_agreed=False, adjust_micros=-11)),
        (989, HIGH_BILL_AFTER_MS, Comparison(-11, is_agreed=False, adjust_micros=0)),
        (1_011, None, Comparison(11, is_agreed=False, adjust_micros=0)),
    ],
)
def test_a_bill_is_held_against_the_books(
    bill: int, stopped_for_ms: int | None, wanted: Comparison
) -> None:
    """Within the tolerance they agree; beyond it only a closed period is adjusted."""
    assert compare(1_000, bill, 10, stopped_for_ms) == wanted
