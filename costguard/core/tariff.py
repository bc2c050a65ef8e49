"""What running costs: price, billing quantum, rounding up per start. Exact integers throughout."""

from __future__ import annotations

from dataclasses import dataclass

from costguard.core.moment import MS_PER_HOUR, MS_PER_S
from costguard.core.money import ceil_div

S_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Tariff:
    """The billing rule of one instance.

    `quantum_s` is the unit that a power interval is rounded up to, per start: 1, 60 or 3600 on
    real platforms, anything in a test. `paused_micros_per_hour` is what the disk costs while the
    instance is off, metered per second.
    """

    price_micros_per_hour: int
    quantum_s: int = 1
    paused_micros_per_hour: int = 0


def quanta_begun(duration_ms: int, quantum_s: int) -> int:
    """How many billing quanta a power interval of this length has begun: one begun is one paid."""
    return ceil_div(max(duration_ms, 0), quantum_s * MS_PER_S)


def running_micros(tariff: Tariff, duration_ms: int) -> int:
    """The price of one uninterrupted power interval, rounded up to the quantum and the micro."""
    seconds = quanta_begun(duration_ms, tariff.quantum_s) * tariff.quantum_s
    return ceil_div(seconds * tariff.price_micros_per_hour, S_PER_HOUR)


def paused_micros(tariff: Tariff, duration_ms: int) -> int:
    """The price of keeping the disk for this long, rounded up to the second and the micro."""
    return ceil_div(quanta_begun(duration_ms, 1) * tariff.paused_micros_per_hour, S_PER_HOUR)


def longest_ms(tariff: Tariff, affordable_micros: int) -> int | None:
    """The longest power interval that costs at most `affordable_micros`; None if it is free.

    The inverse of `running_micros`: n quanta cost ceil(n·q·p / 3600), which stays within the
    amount exactly when n <= amount·3600 / (q·p), because the amount is an integer.
    """
    per_quantum = tariff.quantum_s * tariff.price_micros_per_hour
    if per_quantum == 0:
        return None
    quanta = max(affordable_micros, 0) * S_PER_HOUR // per_quantum
    return quanta * tariff.quantum_s * MS_PER_S


def paid_until_ms(tariff: Tariff, interval_started_ms: int, now_ms: int) -> int:
    """UTC ms up to which the running interval is already paid, the end of the begun quantum."""
    quanta = quanta_begun(now_ms - interval_started_ms, tariff.quantum_s)
    return interval_started_ms + quanta * tariff.quantum_s * MS_PER_S


def hold_micros(tariff: Tariff, keep_for_ms: int) -> int:
    """F of the cap: what keeping the disk for `keep_for_ms` after the run will cost."""
    return ceil_div(
        ceil_div(keep_for_ms, MS_PER_S) * tariff.paused_micros_per_hour, MS_PER_HOUR // MS_PER_S
    )
