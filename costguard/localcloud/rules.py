"""The platform's billing rules beside price and quantum, and how the command line names them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

DAY_S = 86_400
MS_PER_S = 1_000
PER_START = "per_start"
PER_CLOCK = "per_clock"
FULL_PERCENT = 100
_CLOCK = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


@dataclass(frozen=True)
class Offer:
    """So many percent of the price: from one time of day to another, or on one date."""

    percent: int
    from_s: int = 0
    until_s: int = DAY_S
    day: str | None = None

    def holds(self, local: datetime) -> bool:
        """Whether it is in force at this local time; over midnight if it ends before it begins."""
        if self.day is not None:
            return local.date().isoformat() == self.day
        second = local.hour * 3_600 + local.minute * 60 + local.second
        if self.from_s < self.until_s:
            return self.from_s <= second < self.until_s
        return second >= self.from_s or second < self.until_s


@dataclass(frozen=True)
class Rules:
    """How running is rounded, what a start costs at least, and when it is cheaper."""

    rounding: str = PER_START
    minimum_s: int = 0
    minimum_micros: int = 0
    zone: str = "Asia/Shanghai"
    offers: tuple[Offer, ...] = ()

    def grid_ms(self, started_at_ms: int, quantum_s: int) -> int:
        """Where the quantum begins in which a power interval begins: there, or on the clock."""
        if self.rounding == PER_START:
            return started_at_ms
        local = datetime.fromtimestamp(started_at_ms // MS_PER_S, ZoneInfo(self.zone))
        since_midnight_s = local.hour * 3_600 + local.minute * 60 + local.second
        rest_ms = since_midnight_s % quantum_s * MS_PER_S
        return started_at_ms // MS_PER_S * MS_PER_S - rest_ms

    def price(self, list_price_micros: int, at_ms: int) -> int:
        """The price per hour in force; of several offers the dearest holds."""
        local = datetime.fromtimestamp(at_ms // MS_PER_S, ZoneInfo(self.zone))
        percents = [offer.percent for offer in self.offers if offer.holds(local)]
        return list_price_micros * max(percents, default=FULL_PERCENT) // FULL_PERCENT

    def edges_ms(self, from_ms: int, until_ms: int) -> list[int]:
        """Every time from one to the other at which an offer may begin or end."""
        if not self.offers:
            return []
        zone = ZoneInfo(self.zone)
        seconds = {0, *(s % DAY_S for one in self.offers for s in (one.from_s, one.until_s))}
        day = datetime.fromtimestamp(from_ms // MS_PER_S, zone).date()
        last = datetime.fromtimestamp(until_ms // MS_PER_S, zone).date()
        found = []
        while day <= last:
            for second in sorted(seconds):
                hours, rest = divmod(second, 3_600)
                local = datetime(
                    day.year, day.month, day.day, hours, *divmod(rest, 60), tzinfo=zone
                )
                found.append(int(local.timestamp()) * MS_PER_S)
            day += timedelta(days=1)
        return [edge for edge in found if from_ms < edge <= until_ms]

    def as_json(self, quantum_s: int) -> dict[str, Any]:
        """The `billing` of an offer or instance, as the API shows it; money in micro-yuan."""
        return {
            "quantum_s": quantum_s,
            "rounding": self.rounding,
            "minimum_s": self.minimum_s,
            "minimum_micros": self.minimum_micros,
            "zone": self.zone,
            "discounts": [vars(offer) for offer in self.offers],
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Rules:
        """The rules as the store keeps them; the usual ones where it keeps none."""
        offers = tuple(Offer(**one) for one in document.get("offers", ()))
        return cls(**{**document, "offers": offers})


def parse_offer(text: str) -> Offer:
    """`23:00-07:00=50` or `2026-10-01=80`; ValueError for anything else."""
    when, _, percent = text.partition("=")
    if not percent.isdecimal():
        raise ValueError(f"{text!r} names no percentage, as in 23:00-07:00=50")
    clock = _CLOCK.fullmatch(when)
    if clock is None:
        try:
            return Offer(int(percent), day=date.fromisoformat(when).isoformat())
        except ValueError:
            raise ValueError(f"{when!r} is neither HH:MM-HH:MM nor a date") from None
    hours = [int(part) for part in clock.groups()]
    from_s, until_s = (hours[0] * 60 + hours[1]) * 60, (hours[2] * 60 + hours[3]) * 60
    if from_s >= DAY_S or until_s > DAY_S:
        raise ValueError(f"{when!r} lies beyond the day's end")
    return Offer(int(percent), from_s, until_s)
