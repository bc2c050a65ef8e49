"""The books against the platform's bill: two independent witnesses of one instance's cost."""

from __future__ import annotations

from dataclasses import dataclass

# How long the meter must have been proven stopped before a bill is believed to be complete. A bill
# that is too low is more often late than right, so it has to stand for longer.
HIGH_BILL_AFTER_MS = 1_800_000
LOW_BILL_AFTER_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a bill says of the books; amounts in micro-yuan."""

    drift_micros: int  # bill - posted: above 0 where the platform asks for more than we booked
    is_agreed: bool  # within one billing quantum per power interval
    adjust_micros: int  # what an adjustment has to add; 0 while the period is still open


def compare(
    posted_micros: int, bill_micros: int, tolerance_micros: int, stopped_for_ms: int | None
) -> Comparison:
    """How bill and books stand to one another, and what is to be done about it.

    `stopped_for_ms` is how long ago the meter was proven stopped, None while it may run. An open
    period is never adjusted: its bill lags and would be corrected twice. Until it is closed the
    caps count the larger of the two.
    """
    drift = bill_micros - posted_micros
    agreed = abs(drift) <= tolerance_micros
    closed_after_ms = HIGH_BILL_AFTER_MS if drift > 0 else LOW_BILL_AFTER_MS
    closed = stopped_for_ms is not None and stopped_for_ms >= closed_after_ms
    return Comparison(drift, agreed, 0 if agreed or not closed else drift)
