"""Reading what a request asks for, with one clear message for what cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costguard.localcloud.errors import bad_request
from costguard.localcloud.hostkeys import check_public_key
from costguard.localcloud.meter import parse_yuan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.localcloud.options import Options

MAX_GPU_COUNT = 8
MAX_NAME_CHARACTERS = 200
MS_PER_S = 1_000
KNOWN = frozenset(
    {
        "name",
        "tag",
        "gpu",
        "gpu_count",
        "image",
        "region",
        "ssh_public_key",
        "stop_at",
        "max_price_yuan_per_hour",
    }
)


@dataclass(frozen=True)
class Order:
    """A checked request for an instance. `max_price_micros` is per hour, for all its cards."""

    name: str
    tag: str
    gpu: str
    gpu_count: int
    image: str
    region: str
    ssh_public_key: str
    stop_at_ms: int | None
    max_price_micros: int | None


def read_order(body: Mapping[str, Any], options: Options, now_ms: int) -> Order:
    """The order in a request's body; a bad_request names the key that is wrong, and how."""
    unknown = sorted(set(body) - KNOWN)
    if unknown:
        raise bad_request(f"unknown key {unknown[0]!r}; known are: {', '.join(sorted(KNOWN))}")
    gpu = body.get("gpu")
    if gpu not in options.prices:
        raise bad_request(f"gpu: {gpu!r} is not on offer; there are: {', '.join(options.prices)}")
    count = body.get("gpu_count", 1)
    if not _is_whole(count) or not 1 <= count <= MAX_GPU_COUNT:
        raise bad_request(f"gpu_count: must be 1 to {MAX_GPU_COUNT}, not {count!r}")
    try:
        key = check_public_key(_text(body, "ssh_public_key", None))
    except ValueError as error:
        raise bad_request(f"ssh_public_key: {error}") from None
    return Order(
        name=_text(body, "name", None),
        tag=_text(body, "tag", ""),
        gpu=gpu,
        gpu_count=count,
        image=_text(body, "image", "default"),
        region=_text(body, "region", "local"),
        ssh_public_key=key,
        stop_at_ms=read_stop_at(body.get("stop_at"), "stop_at", options, now_ms),
        max_price_micros=_max_price(body.get("max_price_yuan_per_hour")),
    )


def read_stop_at(value: Any, key: str, options: Options, now_ms: int) -> int | None:
    """A stop timer's time in UTC ms, or None; a bad_request if it is too near or no time."""
    if value is None:
        return None
    if not _is_whole(value):
        raise bad_request(f"{key}: must be a time in whole milliseconds since 1970, not {value!r}")
    earliest_ms = now_ms + int(options.min_timer_lead_s * MS_PER_S)
    if value < earliest_ms:
        raise bad_request(
            f"{key}: {value} is less than {options.min_timer_lead_s:g} s ahead of now ({now_ms})"
        )
    return int(value)


def read_page(text: str) -> int:
    """A page number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise bad_request(f"page: must be a whole number from 1 on, not {text!r}")
    return int(text)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(body: Mapping[str, Any], key: str, default: str | None) -> str:
    value = body.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise bad_request(f"{key}: must be a text, not {value!r}")
    if key != "ssh_public_key" and len(value) > MAX_NAME_CHARACTERS:
        raise bad_request(f"{key}: longer than {MAX_NAME_CHARACTERS} characters")
    return value


def _max_price(value: Any) -> int | None:
    if value is None:
        return None
    try:
        return parse_yuan(value)
    except ValueError as error:
        raise bad_request(f"max_price_yuan_per_hour: {error}") from None
