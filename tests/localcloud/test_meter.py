from __future__ import annotations

from decimal import Decimal

import pytest

from costguard.localcloud import meter

HOUR_MS = 3_600_000
START = 1_000_000
YUAN_15 = 15_000_000
YUAN_18 = 18_000_000


def total(interval: meter.Interval, as_of_ms: int) -> tuple[int, int]:
    """Quanta and micro-yuan of all lines of an interval."""
    lines = meter.compute_lines("x", interval, as_of_ms)
    return sum(one.quanta for one in lines), sum(one.amount_micros for one in lines)


@pytest.mark.parametrize(
    ("quantum_s", "duration_ms", "quanta", "micros"),
    [
        (1, 0, 0, 0),
        (1, 1, 1, 4_166),
        (1, 1_000, 1, 4_166),
        (1, 1_001, 2, 8_333),
        (1, HOUR_MS, 3_600, YUAN_15),
        (60, 1, 1, 250_000),
        (60, 60_000, 1, 250_000),
        (60, 60_001, 2, 500_000),
        (3_600, 1, 1, YUAN_15),
        (3_600, HOUR_MS, 1, YUAN_15),
        (3_600, HOUR_MS + 1, 2, 2 * YUAN_15),
        (7, 20_000, 3, 87_500),
    ],
)
def test_interval_is_rounded_up_to_its_quantum(
    quantum_s: int, duration_ms: int, quanta: int, micros: int
) -> None:
    """A quantum begun is a quantum paid, closed or still open."""
    running = meter.open_interval(START, quantum_s, YUAN_15)
    end = START + duration_ms
    assert total(running, end) == (quanta, micros)
    assert total(meter.close(running, end), end + HOUR_MS) == (quanta, micros)


@pytest.mark.parametrize(
    ("quantum_s", "change_ms", "end_ms", "expected"),
    [
        (1, 10_000, 25_000, [(10, YUAN_15), (15, YUAN_18)]),
        (1, 10_500, 25_000, [(11, YUAN_15), (14, YUAN_18)]),
        (60, 90_000, 121_000, [(2, YUAN_15), (1, YUAN_18)]),
        (3_600, 1_800_000, 2_000_000, [(1, YUAN_15), (0, YUAN_18)]),
        (3_600, 1_800_000, HOUR_MS + 1, [(1, YUAN_15), (1, YUAN_18)]),
    ],
)
def test_price_change_splits_the_interval(
    quantum_s: int, change_ms: int, end_ms: int, expected: list[tuple[int, int]]
) -> None:
    """A quantum costs the price in force when it began, and the change adds no quantum."""
    interval = meter.open_interval(START, quantum_s, YUAN_15)
    interval = meter.reprice(interval, START + change_ms, YUAN_18)
    lines = meter.compute_lines("x", meter.close(interval, START + end_ms), START + HOUR_MS * 9)
    assert [(one.quanta, one.price_micros_per_hour) for one in lines] == expected
    assert [one.line for one in lines] == ["x/1", "x/2"]
    assert lines[0].ended_at_ms == lines[1].started_at_ms == START + change_ms


def test_same_price_splits_nothing() -> None:
    """A change to the price in force leaves one line."""
    interval = meter.open_interval(START, 1, YUAN_15)
    assert meter.reprice(interval, START + 5_000, YUAN_15) == interval


def test_price_change_at_the_start_replaces_the_price() -> None:
    """No line of no length is made."""
    interval = meter.reprice(meter.open_interval(START, 1, YUAN_15), START, YUAN_18)
    assert interval == meter.open_interval(START, 1, YUAN_18)


def test_interval_never_ends_before_its_last_price() -> None:
    """A clock that steps back makes no negative time."""
    interval = meter.open_interval(START, 1, YUAN_15)
    assert meter.close(interval, START - 5_000).ended_at_ms == START


def test_lines_as_of_the_past_leave_out_what_came_later() -> None:
    """A bill as of an earlier time has open what ended later, and not what began later."""
    interval = meter.reprice(meter.open_interval(START, 1, YUAN_15), START + 10_000, YUAN_18)
    interval = meter.close(interval, START + 20_000)
    assert meter.compute_lines("x", interval, START - 1) == []
    (line,) = meter.compute_lines("x", interval, START + 4_000)
    assert (line.quanta, line.ended_at_ms) == (4, None)


@pytest.mark.parametrize(
    ("released_ms", "as_of_ms", "quanta", "ended_ms"),
    [
        (None, 10_500, 11, None),
        (5_000, 10_500, 5, START + 5_000),
        (20_000, 10_500, 11, None),
    ],
)
def test_disk_is_metered_per_second_to_its_release(
    released_ms: int | None, as_of_ms: int, quanta: int, ended_ms: int | None
) -> None:
    """The disk's line runs from creation to release."""
    released = None if released_ms is None else START + released_ms
    (line,) = meter.disk_line("x", START, released, 36_000, START + as_of_ms)
    assert (line.kind, line.quanta, line.ended_at_ms) == ("disk", quanta, ended_ms)
    assert line.amount_micros == quanta * 10


def test_free_disk_has_no_line() -> None:
    """What costs nothing is not on the bill."""
    assert meter.disk_line("x", START, None, 0, START + HOUR_MS) == []


def test_article_figures_come_out_to_the_fen() -> None:
    """1 + 1 + 2 + 1 hours at 15 yuan are 75 yuan, 20 hours 300, also at 20 and 40 yuan an hour."""
    stages = [
        total(meter.open_interval(START, 1, YUAN_15), START + hours * HOUR_MS)[1]
        for hours in (1, 1, 2, 1)
    ]
    assert meter.format_yuan(sum(stages)) == "75.00"
    for yuan, expected in ((15, "300.00"), (20, "400.00"), (40, "800.00")):
        price = meter.parse_yuan(yuan)
        assert meter.format_yuan(meter.amount_micros(20 * 3_600, 1, price)) == expected


@pytest.mark.parametrize(
    ("given", "micros"),
    [("15", YUAN_15), (15, YUAN_15), (Decimal("0.000001"), 1), (" 1.5 ", 1_500_000), ("0", 0)],
)
def test_yuan_become_micros(given: str | int | Decimal, micros: int) -> None:
    """Texts, whole numbers and decimals are read exactly."""
    assert meter.parse_yuan(given) == micros


@pytest.mark.parametrize("given", ["-1", "abc", "", "NaN", "Infinity", "0.0000001", "1,5"])
def test_what_is_no_amount_is_refused(given: str) -> None:
    """Negative, infinite, too fine or not a number: each is a ValueError."""
    with pytest.raises(ValueError, match="yuan"):
        meter.parse_yuan(given)


@pytest.mark.parametrize(
    ("micros", "places", "text"),
    [
        (YUAN_15, 2, "15.00"),
        (YUAN_15, 6, "15.000000"),
        (4_166, 2, "0.004166"),
        (1_230_000, 2, "1.23"),
        (-500_000, 2, "-0.50"),
        (0, 2, "0.00"),
    ],
)
def test_micros_become_yuan(micros: int, places: int, text: str) -> None:
    """At least the decimals asked for, and never a digit lost."""
    assert meter.format_yuan(micros, places=places) == text
