from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from costguard.localcloud.faults import FAULTS, FaultError, Faults


def strikes(
    given: Any, times: int, *, name: str = "no_capacity", route: str = "start"
) -> list[bool]:
    """Whether the fault strikes, so many times in a row."""
    faults = Faults()
    faults.merge({name: given})
    return [faults.hit(name, route) is not None for _ in range(times)]


def test_nothing_strikes_unless_set() -> None:
    """A platform without faults behaves."""
    assert not any(Faults().hit(name, "stop") for name in FAULTS)


def test_true_always_strikes() -> None:
    """`true` means every time."""
    assert strikes(True, 3) == [True, True, True]


def test_count_strikes_the_first_times() -> None:
    """{"count": n} strikes n times and no more."""
    assert strikes({"count": 2}, 4) == [True, True, False, False]


def test_probability_is_the_same_for_the_same_seed() -> None:
    """A seed gives the same strikes on every run, another seed others, at about the rate."""
    half = {"probability": Decimal("0.5"), "seed": 7}
    first = strikes(half, 200)
    assert first == strikes(half, 200)
    assert first != strikes({**half, "seed": 8}, 200)
    assert 70 < sum(first) < 130


def test_bare_number_is_a_probability() -> None:
    """0 never strikes and 1 always does."""
    assert strikes(0, 20) == [False] * 20
    assert strikes(1, 20) == [True] * 20


def test_routes_limit_where_it_strikes() -> None:
    """On another route nothing strikes, and nothing of the count is used up."""
    faults = Faults()
    faults.merge({"http_500": {"count": 1, "routes": ["stop"]}})
    assert faults.hit("http_500", "get") is None
    assert faults.hit("http_500", "stop") is not None
    assert faults.hit("http_500", "stop") is None


def test_seconds_are_a_value() -> None:
    """A fault in seconds takes its number bare or as `value`, with a count if wanted."""
    faults = Faults()
    faults.merge({"slow_stop_s": Decimal("1.5"), "slow_start_s": {"value": 2, "count": 1}})
    assert faults.seconds("slow_stop_s", "stop") == 1.5
    assert [faults.seconds("slow_start_s", "start") for _ in range(2)] == [2.0, 0.0]


def test_price_is_for_all_types_or_for_one() -> None:
    """A bare price is every type's; an object names types."""
    faults = Faults()
    faults.merge({"price": "18"})
    assert faults.price_micros("A10", 1) == 18_000_000
    faults.merge({"price": {"value": {"A10": 21}}})
    assert (faults.price_micros("A10", 1), faults.price_micros("A100", 7)) == (21_000_000, 7)


def test_merge_keeps_what_it_does_not_name_and_clears_what_is_false() -> None:
    """Merging changes only the faults it names; false and null clear."""
    faults = Faults()
    faults.merge({"no_capacity": True, "stop_ignored": True, "http_500": True})
    faults.merge({"no_capacity": False, "http_500": None})
    assert list(faults.as_json()) == ["stop_ignored"]
    assert faults.is_set("stop_ignored")


def test_hits_are_told() -> None:
    """Reading the faults tells how often each has struck."""
    faults = Faults()
    faults.merge({"no_capacity": {"count": 1}})
    faults.hit("no_capacity", "start")
    assert faults.as_json() == {"no_capacity": {"set": {"count": 1}, "hits": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_ingored": True}, "no fault 'stop_ingored'"),
        ({"no_capacity": "yes"}, "no_capacity: expected"),
        ({"no_capacity": 1.5}, "no_capacity"),
        ({"no_capacity": Decimal("1.5")}, "at most 1"),
        ({"no_capacity": {"count": -1}}, "count"),
        ({"no_capacity": {"count": True}}, "count"),
        ({"no_capacity": {"routes": ["nowhere"]}}, "routes"),
        ({"no_capacity": {"hold_s": 1}}, "unknown key 'hold_s'"),
        ({"no_capacity": {"value": 1}}, "takes no `value`"),
        ({"slow_stop_s": True}, "`value` must be a number"),
        ({"slow_stop_s": -1}, "`value` must be a number"),
        ({"price": "cheap"}, "not an amount"),
        ({"price": {"value": "18", "count": 1}}, "only `value`"),
        ({"wrong_bill": {"factor": "two"}}, "factor"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    """The text names the fault and what is wrong, and nothing at all is set."""
    faults = Faults()
    with pytest.raises(FaultError, match=message):
        faults.merge({"http_429": True, **changes})
    assert faults.as_json() == {}
