"""The platform's meter: from power intervals and prices to bill lines. Pure, integer micro-yuan.

A power interval is rounded up to the billing quantum, from its start or on the clock; a quantum
begun is a quantum paid, at the price in force when it began; a start costs at least its minimum;
a fraction of a micro-yuan is not charged.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation

from costguard.localcloud.rules import Rules

MICROS_PER_YUAN = 1_000_000
MS_PER_S = 1_000
S_PER_HOUR = 3_600
DISK_QUANTUM_S = 1


@dataclass(frozen=True)
class Rate:
    """A price in force from `since_ms` on."""

    since_ms: int
    price_micros_per_hour: int


@dataclass(frozen=True)
class Interval:
    """One power interval: open while `ended_at_ms` is None. `rates` begin at its start."""

    started_at_ms: int
    quantum_s: int
    rates: tuple[Rate, ...]
    ended_at_ms: int | None = None
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class Line:
    """One line of the bill."""

    line: str
    kind: str
    started_at_ms: int
    ended_at_ms: int | None
    quantum_s: int
    quanta: int
    price_micros_per_hour: int
    amount_micros: int


def parse_yuan(value: str | int | Decimal) -> int:
    """Micro-yuan of a non-negative amount in yuan; ValueError if it is not one, or finer."""
    try:
        micros = Decimal(str(value).strip()) * MICROS_PER_YUAN
    except InvalidOperation:
        raise ValueError(f"{value!r} is not an amount in yuan") from None
    if not micros.is_finite() or micros < 0:
        raise ValueError(f"{value!r} is not an amount in yuan of zero or more")
    if micros != int(micros):
        raise ValueError(f"{value!r} is finer than a millionth of a yuan")
    return int(micros)


def format_yuan(micros: int, *, places: int = 2) -> str:
    """The amount in yuan as a decimal string of at least `places` and at most six decimals."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_YUAN)
    digits = f"{fraction:06d}"
    kept = digits[:places] + digits[places:].rstrip("0")
    return f"{sign}{whole}.{kept}" if kept else f"{sign}{whole}"


def open_interval(
    now_ms: int, quantum_s: int, price_micros_per_hour: int, rules: Rules | None = None
) -> Interval:
    """An interval that begins now at this price."""
    rates = (Rate(now_ms, price_micros_per_hour),)
    return Interval(now_ms, quantum_s, rates, rules=rules or Rules())


def close(interval: Interval, now_ms: int) -> Interval:
    """The interval ended now; never before its last price began, should the clock step back."""
    return replace(interval, ended_at_ms=max(now_ms, interval.rates[-1].since_ms))


def reprice(interval: Interval, now_ms: int, price_micros_per_hour: int) -> Interval:
    """The open interval split now: what began earlier keeps its price."""
    last = interval.rates[-1]
    if price_micros_per_hour == last.price_micros_per_hour:
        return interval
    if now_ms <= last.since_ms:
        changed = Rate(last.since_ms, price_micros_per_hour)
        return replace(interval, rates=(*interval.rates[:-1], changed))
    return replace(interval, rates=(*interval.rates, Rate(now_ms, price_micros_per_hour)))


def quanta_begun(duration_ms: int, quantum_s: int) -> int:
    """How many quanta of `quantum_s` seconds this many milliseconds have begun."""
    return -(-max(duration_ms, 0) // (quantum_s * MS_PER_S))


def amount_micros(quanta: int, quantum_s: int, price_micros_per_hour: int) -> int:
    """What so many quanta cost, a fraction of a micro-yuan dropped."""
    return quanta * quantum_s * price_micros_per_hour // S_PER_HOUR


def compute_lines(name: str, interval: Interval, as_of_ms: int) -> list[Line]:
    """The lines of one power interval as it stood at `as_of_ms`, one per price in force.

    Quanta are counted from the start of the interval, or from where the clock began the one that
    it started in, so that a price change never adds one: a line has those that began under its
    price. What a minimum adds is on the last line.
    """
    if as_of_ms < interval.started_at_ms:
        return []
    ended = interval.ended_at_ms
    if ended is not None and ended > as_of_ms:
        ended = None
    until_ms = as_of_ms if ended is None else ended
    prices = prices_in_force(interval, until_ms)
    lines: list[Line] = []
    counted = 0
    for index, rate in enumerate(prices):
        is_last = index + 1 == len(prices)
        next_ms = until_ms if is_last else prices[index + 1].since_ms
        begun = _begun(interval, next_ms)
        price = rate.price_micros_per_hour
        lines.append(
            Line(
                line=f"{name}/{index + 1}",
                kind="compute",
                started_at_ms=rate.since_ms,
                ended_at_ms=ended if is_last else next_ms,
                quantum_s=interval.quantum_s,
                quanta=begun - counted,
                price_micros_per_hour=price,
                amount_micros=amount_micros(begun - counted, interval.quantum_s, price),
            )
        )
        counted = begun
    if counted:
        missing = _least_micros(interval, prices[0]) - sum(line.amount_micros for line in lines)
        amount = lines[-1].amount_micros + max(missing, 0)
        lines[-1] = replace(lines[-1], amount_micros=amount)
    return lines


def _least_micros(interval: Interval, first: Rate) -> int:
    """What a start costs at least: its minimum time at its first price, or a fixed amount."""
    time = amount_micros(interval.rules.minimum_s, 1, first.price_micros_per_hour)
    return max(time, interval.rules.minimum_micros)


def prices_in_force(interval: Interval, until_ms: int) -> list[Rate]:
    """Every price that holds from the start to `until_ms`, after discount, each since when."""
    rates = [rate for rate in interval.rates if rate.since_ms <= until_ms]
    edges = interval.rules.edges_ms(interval.started_at_ms, until_ms)
    found: list[Rate] = []
    for at_ms in sorted({*edges, *(rate.since_ms for rate in rates)}):
        listed = [rate for rate in rates if rate.since_ms <= at_ms][-1]
        price = interval.rules.price(listed.price_micros_per_hour, at_ms)
        if not found or found[-1].price_micros_per_hour != price:
            found.append(Rate(at_ms, price))
    return found


def _begun(interval: Interval, until_ms: int) -> int:
    """How many of the interval's quanta have begun before this time."""
    if until_ms <= interval.started_at_ms:
        return 0
    first_ms = interval.rules.grid_ms(interval.started_at_ms, interval.quantum_s)
    return quanta_begun(until_ms - first_ms, interval.quantum_s)


def disk_line(
    name: str, created_at_ms: int, released_at_ms: int | None, price: int, as_of_ms: int
) -> list[Line]:
    """The disk's line, per second from creation to release; none where the disk is free."""
    if price == 0 or created_at_ms > as_of_ms:
        return []
    ended = released_at_ms if released_at_ms is not None and released_at_ms <= as_of_ms else None
    until_ms = as_of_ms if ended is None else ended
    quanta = quanta_begun(until_ms - created_at_ms, DISK_QUANTUM_S)
    amount = amount_micros(quanta, DISK_QUANTUM_S, price)
    return [Line(name, "disk", created_at_ms, ended, DISK_QUANTUM_S, quanta, price, amount)]
