"""How the platform can be told to misbehave, and when each fault strikes.

A fault is set by `true` (always), a probability, or an object with any of `count` (the first n
times), `probability` with `seed` (the same strikes on every run), `routes` (only there), `value`
(of a fault that has one) and the fault's own extras. `false` or `null` clears it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from costguard.localcloud.meter import parse_yuan

SWITCH = "switch"
SECONDS = "seconds"
PRICE = "price"
READS = frozenset({"offers", "list", "get", "wallet", "bill"})
CHANGES = frozenset({"create", "start", "stop", "delete", "timer", "power_off"})
ROUTES = READS | CHANGES
COMMON = frozenset({"count", "probability", "seed", "routes", "value"})
# What each fault takes as its value, and the extras that it alone knows.
FAULTS: dict[str, tuple[str, frozenset[str]]] = {
    "no_capacity": (SWITCH, frozenset()),
    "stop_ignored": (SWITCH, frozenset()),
    "refuse_stop_while_starting": (SWITCH, frozenset()),
    "timer_ignored": (SWITCH, frozenset()),
    "timer_lost": (SWITCH, frozenset()),
    "timer_late_s": (SECONDS, frozenset()),
    "off_but_billing": (SWITCH, frozenset()),
    "slow_start_s": (SECONDS, frozenset()),
    "slow_stop_s": (SECONDS, frozenset()),
    "answer_delay_s": (SECONDS, frozenset()),
    "http_429": (SWITCH, frozenset({"retry_after"})),
    "http_500": (SWITCH, frozenset({"after_effect"})),
    "timeout_before": (SWITCH, frozenset({"hold_s"})),
    "timeout_after": (SWITCH, frozenset({"hold_s"})),
    "price": (PRICE, frozenset()),
    "wrong_bill": (SWITCH, frozenset({"factor"})),
    "late_bill_s": (SECONDS, frozenset()),
}


class FaultError(ValueError):
    """A fault was asked for that does not exist or cannot be read; the text says which."""


@dataclass
class Rule:
    """One fault as it was set, and how much of it is left."""

    given: Any
    value: Any = None
    count: int | None = None
    probability: float | None = None
    routes: frozenset[str] | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    hits: int = 0
    dice: random.Random = field(default_factory=random.Random)

    def strikes(self, route: str) -> bool:
        """Whether it strikes now on this route; a strike uses up one of its count."""
        if self.routes is not None and route not in self.routes:
            return False
        if self.count is not None and self.hits >= self.count:
            return False
        if self.probability is not None and self.dice.random() >= self.probability:
            return False
        self.hits += 1
        return True


class Faults:
    """The faults that are set. Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: dict[str, Rule] = {}

    def merge(self, changes: Mapping[str, Any]) -> None:
        """Set and clear faults, all or none; FaultError if one cannot be read."""
        rules = {name: _read(name, given) for name, given in changes.items()}
        with self._lock:
            for name, rule in rules.items():
                if rule is None:
                    self._rules.pop(name, None)
                else:
                    self._rules[name] = rule

    def as_json(self) -> dict[str, Any]:
        """Each fault as it was set, and how often it has struck."""
        with self._lock:
            return {
                name: {"set": rule.given, "hits": rule.hits} for name, rule in self._rules.items()
            }

    def is_set(self, name: str) -> bool:
        """Whether the fault has been set and not cleared, whatever is left of its count."""
        with self._lock:
            return name in self._rules

    def hit(self, name: str, route: str) -> Rule | None:
        """The fault's rule if it strikes now on this route, else None."""
        with self._lock:
            rule = self._rules.get(name)
            return rule if rule is not None and rule.strikes(route) else None

    def seconds(self, name: str, route: str) -> float:
        """The seconds that the fault adds now on this route: 0 where it does not strike."""
        rule = self.hit(name, route)
        return 0.0 if rule is None else float(rule.value)

    def price_micros(self, gpu: str, usual: int) -> int:
        """The price per hour and card now in force for a GPU type."""
        with self._lock:
            rule = self._rules.get("price")
            return usual if rule is None else int(rule.value.get(gpu, rule.value.get("*", usual)))


def _read(name: str, given: Any) -> Rule | None:
    if name not in FAULTS:
        raise FaultError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    if given is None or given is False:
        return None
    kind, extras = FAULTS[name]
    parts = dict(given) if isinstance(given, Mapping) else _shorthand(name, kind, given)
    unknown = set(parts) - COMMON - extras
    if unknown:
        raise FaultError(f"{name}: unknown key {min(unknown)!r}")
    rule = Rule(
        given=given,
        value=_value(name, kind, parts.get("value")),
        count=_count(name, parts.get("count")),
        probability=_probability(name, parts.get("probability")),
        routes=_routes(name, parts.get("routes")),
        extras={key: _extra(name, key, parts[key]) for key in extras & set(parts)},
        dice=random.Random(str(parts.get("seed", 0))),  # noqa: S311 - repeatable, not secret
    )
    if kind == PRICE and (rule.count, rule.probability, rule.routes) != (None, None, None):
        raise FaultError(f"{name}: a price is in force until it is cleared; it takes only `value`")
    return rule


def _shorthand(name: str, kind: str, given: Any) -> dict[str, Any]:
    if kind != SWITCH:
        return {"value": None if given is True else given}
    if given is True:
        return {}
    if isinstance(given, (int, Decimal)):
        return {"probability": given}
    raise FaultError(f"{name}: expected true, false, a probability or an object, got {given!r}")


def _value(name: str, kind: str, value: Any) -> Any:
    if kind == SWITCH:
        if value is not None:
            raise FaultError(f"{name}: takes no `value`")
        return None
    if kind == SECONDS:
        return _number(name, "value", value)
    prices = value if isinstance(value, Mapping) else {"*": value}
    try:
        return {gpu: parse_yuan(price) for gpu, price in prices.items()}
    except ValueError as error:
        raise FaultError(f"{name}: {error}") from None


def _extra(name: str, key: str, value: Any) -> Any:
    if key == "after_effect":
        return bool(value)
    if key == "factor":
        return Decimal(str(_number(name, key, value)))
    return _number(name, key, value)


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or value < 0:
        raise FaultError(f"{name}: `{key}` must be a number of zero or more, not {value!r}")
    return float(value)


def _count(name: str, count: Any) -> int | None:
    if count is None or (isinstance(count, int) and not isinstance(count, bool) and count >= 0):
        return count
    raise FaultError(f"{name}: `count` must be a whole number of zero or more, not {count!r}")


def _probability(name: str, probability: Any) -> float | None:
    if probability is None:
        return None
    number = _number(name, "probability", probability)
    if number > 1:
        raise FaultError(f"{name}: a probability is at most 1, not {probability}")
    return number


def _routes(name: str, routes: Any) -> frozenset[str] | None:
    if routes is None:
        return None
    if not isinstance(routes, list) or not set(routes) <= ROUTES:
        raise FaultError(f"{name}: `routes` must be a list of: {', '.join(sorted(ROUTES))}")
    return frozenset(routes)
