"""Which offer is the cheapest for a given job: the price of an hour says little by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.core.money import ceil_div
from costguard.core.tariff import paused_micros, running_micros
from costguard.providers.speeds import Speed, speed_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from costguard.providers.base import Offer

MS_PER_S = 1_000
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Ranked:
    """An offer, and what the job would cost on it; `None` where the card's speed is not known."""

    platform: str
    offer: Offer
    speed: Speed | None
    duration_ms: int | None
    finish_micros: int | None
    paused_micros_per_day: int


def rank(
    offers: Iterable[tuple[str, Offer]],
    tokens: int,
    *,
    setup_ms: int = 0,
    own: Mapping[str, int] | None = None,
    memory_gib: int = 0,
    start_ms: int = 0,
) -> list[Ranked]:
    """Offers by what `tokens` of training cost on each, rounded up as the tariff rounds.

    What surely has stock, or does not say, comes before what is sold out; what has no known
    speed comes last. Cards with less than `memory_gib` are left out. `setup_ms` is paid on each:
    environment, model download, loading. `start_ms` (UTC) is when it would begin, which counts
    where the night is cheaper. Several cards count as so many times faster, which is
    the best case: a dearer machine is never made to look cheap by it, since it costs as much more.
    """
    found = [
        _judge(platform, offer, tokens, setup_ms, own, start_ms)
        for platform, offer in offers
        if offer.memory_gib is None or offer.memory_gib >= memory_gib
    ]
    return sorted(found, key=_order)


def _order(ranked: Ranked) -> tuple[bool, bool, int, int, str, str]:
    cost = ranked.finish_micros
    price = ranked.offer.tariff.price_micros_per_hour
    sold_out = ranked.offer.in_stock is False
    return (cost is None, sold_out, cost or 0, price, ranked.platform, ranked.offer.gpu)


def _judge(
    platform: str,
    offer: Offer,
    tokens: int,
    setup_ms: int,
    own: Mapping[str, int] | None,
    start_ms: int,
) -> Ranked:
    speed = speed_of(offer.gpu, own)
    if speed is None and offer.note:
        speed = speed_of(offer.note, own)  # machines are named otherwise than their cards
    duration_ms = cost = None
    if speed is not None:
        per_s = speed.tokens_per_s * max(offer.gpu_count, 1)
        duration_ms = setup_ms + ceil_div(tokens * MS_PER_S, per_s)
        cost = running_micros(offer.tariff, start_ms, start_ms + duration_ms)
    return Ranked(platform, offer, speed, duration_ms, cost, paused_micros(offer.tariff, DAY_MS))
