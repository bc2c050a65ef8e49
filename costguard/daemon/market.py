"""What can be rented, and from which image: asked of every account, without renting anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.core.money import yuan_text
from costguard.daemon.accounts import account_names, open_to_ask
from costguard.errors import UserError, in_a_sentence
from costguard.providers.base import ProviderError
from costguard.providers.imagewords import says_qwen25
from costguard.providers.ranking import rank
from costguard.report.figures import time_text

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.providers.base import Offer
    from costguard.providers.ranking import Ranked
    from costguard.settings import Settings

OFFERS_SCHEMA = "costguard.offers/1"
IMAGES_SCHEMA = "costguard.images/1"


def offers_document(
    settings: Settings, now: Moment, gpu_count: int, tokens: int | None
) -> dict[str, Any]:
    """Every offer of every configured account: the cheapest hour first, or the cheapest finish.

    With `tokens` of training the order is by what they cost on each. An account that gives no
    answer is named in `failed`, and the others are shown all the same.
    """
    found: list[tuple[str, Offer]] = []
    failed: list[dict[str, str]] = []
    for name in account_names(settings):
        try:
            found += [(name, offer) for offer in open_to_ask(settings, name).offers(gpu_count)]
        except (ProviderError, UserError) as error:
            failed.append({"provider": name, "what": in_a_sentence(error)})
    ranked = rank(found, tokens or 0, start_ms=now.utc_ms)
    if tokens is None:
        ranked.sort(key=lambda each: (each.offer.tariff.price_micros_per_hour, each.platform))
    return {
        "schema": OFFERS_SCHEMA,
        "as_of": time_text(now.utc_ms),
        "gpu_count": gpu_count,
        "tokens": tokens,
        "rows": [_row(each, with_finish=tokens is not None) for each in ranked],
        "failed": failed,
    }


def images_document(settings: Settings, name: str, words: str) -> dict[str, Any]:
    """The platform's images with all these words, and whether each says that it has Qwen2.5.

    UserError with the platform's own word where it gives no answer.
    """
    try:
        found = open_to_ask(settings, name).images(words)
    except ProviderError as error:
        what, hint = f"{name} shows no images: {error}", "check the token and the words"
        raise UserError("no_images", what, f"[providers.{name}]", hint) from error
    return {
        "schema": IMAGES_SCHEMA,
        "provider": name,
        "words": words,
        "rows": [
            {
                "id": image.id,
                "name": image.name,
                "kind": image.kind,
                "says_qwen25": says_qwen25(f"{image.name} {image.says}"),
            }
            for image in found
        ],
    }


def _row(ranked: Ranked, *, with_finish: bool) -> dict[str, Any]:
    offer, speed = ranked.offer, ranked.speed
    knows = with_finish and ranked.finish_micros is not None and ranked.duration_ms is not None
    return {
        "provider": ranked.platform,
        "gpu": offer.gpu,
        "gpu_count": offer.gpu_count,
        "price_yuan_per_hour": yuan_text(offer.tariff.price_micros_per_hour),
        "paused_yuan_per_day": yuan_text(ranked.paused_micros_per_day),
        "in_stock": offer.in_stock,
        "memory_gib": offer.memory_gib,
        "region": offer.region,
        "note": offer.note,
        "tokens_per_s": None if speed is None else speed.tokens_per_s,
        "speed_kind": None if speed is None else speed.kind,
        "duration_s": (ranked.duration_ms or 0) // 1_000 if knows else None,
        "finish_yuan": yuan_text(ranked.finish_micros or 0) if knows else None,
    }
