"""What running costs: price, rounding, minimum, discounts, changes of price. Exact integers.

One rule holds for every tariff: time is cut into quanta, from the start or on the clock; a quantum
begun is a quantum paid, at the price in force when it began. `running_micros` prices an interval,
`longest_ms` is its inverse, and both walk the same pieces of constant price.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from costguard.core.calendar import Window, at_ms, local_day, offset_ms, span_ms, zone_named
from costguard.core.moment import MS_PER_S
from costguard.core.money import ceil_div

if TYPE_CHECKING:
    from collections.abc import Iterator

S_PER_HOUR = 3_600
PER_MILLE = 1_000
ZONE = "Asia/Shanghai"
# A price in micro-yuan an hour and thousandths, times seconds, is this many parts of a micro-yuan.
PARTS = S_PER_HOUR * PER_MILLE


@dataclass(frozen=True, slots=True)
class Discount:
    """A share of the list price that holds in a window: 500 per mille at night, 800 on a holiday.

    Where two windows overlap, the dearer one counts: no platform was found to say which.
    """

    per_mille: int
    window: Window


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From `at_ms` (UTC) on, this is the list price."""

    at_ms: int
    price_micros_per_hour: int


@dataclass(frozen=True, slots=True)
class ForeignPrice:
    """The price as a platform abroad names it, and the dated rate that made yuan of it.

    The rate is an exact ratio, `numerator / denominator` yuan for one unit of `currency`.
    """

    currency: str
    price_micros_per_hour: int  # millionths of that currency
    numerator: int
    denominator: int
    date: str  # the day that the rate is of

    def in_yuan(self, micros: int) -> int:
        """Micro-yuan for so many millionths of the currency, rounded up."""
        return ceil_div(micros * self.numerator, self.denominator)


@dataclass(frozen=True, slots=True)
class Tariff:
    """The billing rule of one instance. All of it is yuan, whatever the platform counts in.

    `quantum_s` is the unit that running is rounded up to: 1, 60 or 3600 on real platforms,
    anything in a test. It is counted from the start or, with `by_clock`, on the zone's clock.
    The first `free_s` of an interval, in whole quanta, are free or paid already. Beyond them a
    start costs at least `minimum_s` at the price of its first instant, and at least
    `minimum_micros`. The zone's clock is the platform's: `ahead_ms` is how far it is ahead of the
    one that instants are told by here, so that its nights and hours begin when they do.
    `paused_micros_per_hour` is what the disk costs from creation to release, in quanta of
    `paused_quantum_s`.
    """

    price_micros_per_hour: int
    quantum_s: int = 1
    paused_micros_per_hour: int = 0
    by_clock: bool = False
    minimum_s: int = 0
    minimum_micros: int = 0
    free_s: int = 0
    paused_quantum_s: int = 1
    zone: str = ZONE
    discounts: tuple[Discount, ...] = ()
    changes: tuple[PriceChange, ...] = ()  # in the order of their time
    foreign: ForeignPrice | None = None
    ahead_ms: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be computed with, before any money rests on it."""
        if self.quantum_s < 1 or self.paused_quantum_s < 1:
            raise ValueError("a billing quantum is at least one second")
        if self.by_clock and S_PER_HOUR % self.quantum_s:
            raise ValueError("a quantum on the clock divides the hour")
        times = [change.at_ms for change in self.changes]
        if times != sorted(set(times)):
            raise ValueError("changes of price stand in the order of their time, one at a time")
        if self.goes_by_clock:
            zone_named(self.zone)

    @property
    def quantum_ms(self) -> int:
        """The billing quantum in milliseconds."""
        return self.quantum_s * MS_PER_S

    @property
    def goes_by_clock(self) -> bool:
        """Whether what the platform's clock says has any part in the price."""
        return self.by_clock or bool(self.discounts)

    def told_ahead(self, ahead_ms: int) -> Tariff:
        """The same, where the platform's clock is so far ahead of the one used here."""
        if not self.goes_by_clock or ahead_ms == self.ahead_ms:
            return self
        return replace(self, ahead_ms=ahead_ms)

    def to_json(self) -> str:
        """The tariff as one JSON text, as the database keeps it."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


def tariff_from_json(text: str) -> Tariff:
    """The tariff that `Tariff.to_json` wrote, equal to it in every field."""
    data: dict[str, Any] = json.loads(text)
    discounts = tuple(
        Discount(one["per_mille"], _window(one["window"])) for one in data.pop("discounts")
    )
    changes = tuple(PriceChange(**one) for one in data.pop("changes"))
    foreign = data.pop("foreign")
    return Tariff(
        discounts=discounts,
        changes=changes,
        foreign=None if foreign is None else ForeignPrice(**foreign),
        **data,
    )


def foreign_tariff(price: ForeignPrice, **terms: Any) -> Tariff:
    """A tariff in yuan of a price abroad, rounded up to the micro-yuan an hour, never down."""
    return Tariff(price.in_yuan(price.price_micros_per_hour), foreign=price, **terms)


# --------------------------------------------------------------------------- price in force


def list_price_micros(tariff: Tariff, utc_ms: int) -> int:
    """The list price in force at this instant, before any discount."""
    price = tariff.price_micros_per_hour
    for change in tariff.changes:
        if change.at_ms > utc_ms:
            break
        price = change.price_micros_per_hour
    return price


def price_micros(tariff: Tariff, utc_ms: int) -> int:
    """The price in force at this instant, discount taken off, rounded up to the micro."""
    return ceil_div(_parts_per_s(tariff, utc_ms), PER_MILLE)


def price_points_ms(tariff: Tariff, after_ms: int, until_ms: int) -> Iterator[int]:
    """The instants at which the price in force changes, between the two, neither included."""
    before = None
    for begins_ms, _, parts in _pieces(tariff, after_ms, until_ms):
        if before is not None and parts != before:
            yield begins_ms
        before = parts


def _parts_per_s(tariff: Tariff, utc_ms: int) -> int:
    """The price in force, in thousandths of a micro-yuan an hour."""
    price = list_price_micros(tariff, utc_ms)
    if not tariff.discounts:
        return price * PER_MILLE
    zone, utc_ms = zone_named(tariff.zone), utc_ms + tariff.ahead_ms
    today = local_day(utc_ms, zone)
    shares = []
    for discount in tariff.discounts:
        for day in (today - timedelta(days=1), today):
            span = span_ms(discount.window, day, zone)
            if span is not None and span[0] <= utc_ms < span[1]:
                shares.append(discount.per_mille)
    return price * max(shares, default=PER_MILLE)


def _pieces(tariff: Tariff, start_ms: int, end_ms: int) -> Iterator[tuple[int, int, int]]:
    """The stretches of constant price from start to end: from, to, and price in parts."""
    at = start_ms
    while at < end_ms:
        until_ms = min(end_ms, _next_edge_ms(tariff, at, end_ms))
        yield at, until_ms, _parts_per_s(tariff, at)
        at = until_ms


def _next_edge_ms(tariff: Tariff, after_ms: int, end_ms: int) -> int:
    """The next instant at which the price may change; `end_ms` where none comes before."""
    edges = [change.at_ms for change in tariff.changes if change.at_ms > after_ms]
    if tariff.discounts:
        zone, told_ms = zone_named(tariff.zone), after_ms + tariff.ahead_ms
        today = local_day(told_ms, zone)
        turns = [at_ms(today + timedelta(days=1), 0, zone)]
        for discount in tariff.discounts:
            for day in (today - timedelta(days=1), today):
                spans = span_ms(discount.window, day, zone) or ()
                turns.extend(edge for edge in spans if edge > told_ms)
        edges.extend(edge - tariff.ahead_ms for edge in turns)
    return min(edges, default=end_ms)


# --------------------------------------------------------------------------- quanta


@dataclass(frozen=True, slots=True)
class _Grid:
    """The quanta of one power interval: the first begins at its start."""

    start_ms: int
    quantum_ms: int
    first_edge_ms: int  # where the second begins

    def begun(self, end_ms: int) -> int:
        """How many have begun before `end_ms`."""
        if end_ms <= self.start_ms:
            return 0
        return 1 + max(ceil_div(end_ms - self.first_edge_ms, self.quantum_ms), 0)

    def begins_ms(self, index: int) -> int:
        """When the quantum of this number, from 0, begins."""
        if index == 0:
            return self.start_ms
        return self.first_edge_ms + (index - 1) * self.quantum_ms


def _grid(tariff: Tariff, start_ms: int) -> _Grid:
    quantum_ms = tariff.quantum_ms
    if not tariff.by_clock:
        return _Grid(start_ms, quantum_ms, start_ms + quantum_ms)
    # Clocks are changed by whole quanta, but for Lord Howe's half hour: the start's offset serves.
    told_ms = start_ms + tariff.ahead_ms
    local_ms = told_ms + offset_ms(told_ms, zone_named(tariff.zone))
    return _Grid(start_ms, quantum_ms, start_ms + quantum_ms - local_ms % quantum_ms)


def quanta_begun(duration_ms: int, quantum_s: int) -> int:
    """How many billing quanta a stretch of this length has begun: one begun is one paid."""
    return ceil_div(max(duration_ms, 0), quantum_s * MS_PER_S)


# --------------------------------------------------------------------------- the price of running


def running_micros(tariff: Tariff, start_ms: int, end_ms: int) -> int:
    """The price of one uninterrupted power interval [start, end), rounded up to the micro.

    It never falls as the end moves on, and depends on nothing but the two instants: metered in
    however many steps, the differences add up to the same.
    """
    grid = _grid(tariff, start_ms)
    counted = tariff.free_s // tariff.quantum_s
    if grid.begun(end_ms) <= counted:
        return 0
    parts = 0
    for _, until_ms, price in _pieces(tariff, start_ms, end_ms):
        begun = max(grid.begun(until_ms), counted)
        parts += (begun - counted) * price
        counted = begun
    running = ceil_div(parts * tariff.quantum_s, PARTS)
    return max(running, _minimum_micros(tariff, start_ms))


def _minimum_micros(tariff: Tariff, start_ms: int) -> int:
    """What a start costs at least once its free time is used up, known at its first instant."""
    least_s = max(tariff.minimum_s - tariff.free_s, 0)
    least = ceil_div(least_s * _parts_per_s(tariff, start_ms), PARTS) if least_s else 0
    return max(least, tariff.minimum_micros)


def longest_ms(tariff: Tariff, start_ms: int, affordable_micros: int, at_most_ms: int) -> int:
    """The longest power interval from `start_ms` that costs at most so much; `at_most_ms` if less.

    The inverse of `running_micros`: what is returned is affordable and one millisecond more is
    not, unless the limit cut it. A sum is within the amount, which is whole, exactly when its
    parts are within the amount's parts.
    """
    if affordable_micros < 0:
        return 0
    end_ms = start_ms + at_most_ms
    grid = _grid(tariff, start_ms)
    counted = tariff.free_s // tariff.quantum_s
    if _minimum_micros(tariff, start_ms) > affordable_micros:
        return min(grid.begins_ms(counted), end_ms) - start_ms
    left = affordable_micros * PARTS // tariff.quantum_s
    for _, until_ms, price in _pieces(tariff, start_ms, end_ms):
        begun = grid.begun(until_ms)
        if begun <= counted:
            continue
        if (begun - counted) * price > left:
            return min(grid.begins_ms(counted + left // price), end_ms) - start_ms
        left -= (begun - counted) * price
        counted = begun
    return at_most_ms


def paid_until_ms(tariff: Tariff, started_ms: int, now_ms: int) -> int:
    """UTC ms up to which the running interval is already paid: an hour begun, or the minimum."""
    if now_ms <= started_ms:
        return started_ms
    grid = _grid(tariff, started_ms)
    last_ms = max(now_ms, started_ms + tariff.minimum_s * MS_PER_S)
    most_ms = grid.begins_ms(grid.begun(last_ms)) - started_ms
    owed = running_micros(tariff, started_ms, now_ms)
    return started_ms + longest_ms(tariff, started_ms, owed, most_ms)


def free_left_s(tariff: Tariff, start_ms: int, end_ms: int) -> int:
    """What a power interval leaves of the free or prepaid time, for the next one to use."""
    used_s = _grid(tariff, start_ms).begun(end_ms) * tariff.quantum_s
    return max(tariff.free_s - used_s, 0)


# --------------------------------------------------------------------------- a change of terms


def same_terms(one: Tariff, other: Tariff, at_ms: int) -> bool:
    """Whether running is charged alike from `at_ms` on; free time is the interval's own, and kept.

    A rate of exchange of another day is no change while it comes to the same price.
    """
    return _running(repriced(one, other, at_ms)) == _running(repriced(one, one, at_ms))


def _running(tariff: Tariff) -> Tariff:
    return replace(tariff, paused_micros_per_hour=0, paused_quantum_s=1, foreign=None)


def repriced(old: Tariff, new: Tariff, at_ms: int) -> Tariff:
    """`new` from `at_ms` on, for an interval that began under `old`, whose list prices it keeps.

    Other terms are the new ones throughout: what is charged by it is the difference that time from
    `at_ms` on makes, and a quantum that had begun by then makes none.
    """
    past = tuple(change for change in old.changes if change.at_ms < at_ms)
    before = past[-1].price_micros_per_hour if past else old.price_micros_per_hour
    price = list_price_micros(new, at_ms)
    turn = () if price == before else (PriceChange(at_ms, price),)
    ahead = tuple(change for change in new.changes if change.at_ms > at_ms)
    return replace(
        new,
        price_micros_per_hour=old.price_micros_per_hour,
        free_s=old.free_s,
        minimum_micros=max(old.minimum_micros, new.minimum_micros),
        changes=(*past, *turn, *ahead),
    )


# --------------------------------------------------------------------------- while it is off


def paused_micros(tariff: Tariff, duration_ms: int) -> int:
    """The price of keeping the disk for this long, rounded up to its quantum and the micro."""
    seconds = quanta_begun(duration_ms, tariff.paused_quantum_s) * tariff.paused_quantum_s
    return ceil_div(seconds * tariff.paused_micros_per_hour, S_PER_HOUR)


def hold_micros(tariff: Tariff, keep_for_ms: int) -> int:
    """F of the cap: what keeping the disk for `keep_for_ms` after the run will cost."""
    return paused_micros(tariff, keep_for_ms)


def _window(data: dict[str, Any]) -> Window:
    return Window(
        from_s=data["from_s"],
        until_s=data["until_s"],
        weekdays=tuple(data["weekdays"]),
        dates=tuple(data["dates"]),
    )
