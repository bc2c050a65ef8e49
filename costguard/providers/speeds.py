"""How fast cards train, where nobody has measured yet: a table, with where each figure is from.

Tokens per second and card, QLoRA on a 7B model, short samples packed, activations recomputed.
`measured` by us, `published` by others, `calculated` from the card's arithmetic. The last kind is
what is reached when nothing but arithmetic holds the card up: large cards fall short of it.

Calculated: 60 % of the card's dense bf16 rate (what torchtune's published 4090 figure comes to)
over 41.3 GFLOP a token: Qwen2.5-7B forward 14.1, recomputed once, and gradients of activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from costguard.providers.shared import card

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["measured", "published", "calculated"]
PERCENT_OF_PEAK = 60
MFLOP_PER_TOKEN = 41_300
MFLOP_PER_TFLOP = 1_000_000
OWN_RUNS = "your own runs"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of one card, how it is known, and from where."""

    tokens_per_s: int
    kind: Kind
    source: str


def calculated(tflops: int) -> Speed:
    """What a card of so many dense bf16 TFLOP/s comes to, by the formula above."""
    tokens_per_s = tflops * MFLOP_PER_TFLOP * PERCENT_OF_PEAK // 100 // MFLOP_PER_TOKEN
    return Speed(tokens_per_s, "calculated", f"{PERCENT_OF_PEAK} % of {tflops} TFLOP/s bf16")


_H200 = "this project's bench on 2026-11-23, the slower of two machines; packed 4096, compiled"
_4090 = "torchtune README: Llama-3.1-8B QLoRA, packed 2048, compiled"
# Dense bf16 tensor rates from NVIDIA's data sheets.
SPEEDS: Mapping[str, Speed] = {
    card(name): speed
    for name, speed in {
        "H200": Speed(9_046, "measured", _H200),
        "RTX 4090": Speed(2_413, "published", _4090),
        "RTX 4090 48G": Speed(2_413, "published", _4090),
        "RTX 3090": calculated(71),
        "RTX 3090 48G": calculated(71),
        "RTX 5090": calculated(209),
        "A10": calculated(125),
        "A10G": calculated(70),
        "A100": calculated(312),
        "A800": calculated(312),
        "L40S": calculated(362),
        "H20": calculated(148),
    }.items()
}


def speed_of(name: str, own: Mapping[str, int] | None = None) -> Speed | None:
    """The speed of a card by whatever name; our own measurements take the table's place.

    `own` is tokens per second by card name. A name that says more than the table's (a memory
    size, a form factor) is that card; None for a card that nothing is known of.
    """
    wanted = card(name)
    for known, tokens_per_s in (own or {}).items():
        if card(known) == wanted and tokens_per_s > 0:
            return Speed(tokens_per_s, "measured", OWN_RUNS)
    fitting = [known for known in SPEEDS if wanted == known or wanted.startswith(known)]
    # The longest: an A100 is no A10, though its name begins like one.
    return SPEEDS[max(fitting, key=len)] if fitting and _is_whole(wanted, fitting) else None


def _is_whole(wanted: str, fitting: list[str]) -> bool:
    """Whether what follows the known name is no part of a number: `A1000` is no A100."""
    rest = wanted[len(max(fitting, key=len)) :]
    return not rest[:1].isdecimal() or rest[:2] in ("24", "40", "48", "80")
