"""What is measured: the samples, the rows of the table, and who takes part in each."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.template import IGNORED, Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES = 1000
FULL_LENGTH = 1024
LORA_RANK = 8
GIB = 2**30
TEMPLATE_TOKENS = 26
"""What the chat template adds to a sample, with `assistant` as the system prompt."""


def short_samples(count: int = SAMPLES, seed: int = 7) -> list[Encoded]:
    """Samples as long as customer-service answers are: log-normal, 40 to 1,024, mean about 148."""
    lengths = random.Random(seed)  # noqa: S311 - a benchmark's data
    words = random.Random(seed + 1)  # noqa: S311 - a benchmark's data
    return [
        _sample(int(min(1024, max(40, math.exp(lengths.gauss(math.log(130), 0.5))))), words)
        for _ in range(count)
    ]


def full_samples(count: int = 400, seed: int = 3) -> list[Encoded]:
    """Samples of exactly 1,024 tokens."""
    words = random.Random(seed)  # noqa: S311 - a benchmark's data
    return [_sample(FULL_LENGTH, words) for _ in range(count)]


def _sample(length: int, words: random.Random) -> Encoded:
    """Random words, the first third of them the question."""
    token_ids = tuple(words.randrange(300, 150000) for _ in range(length))
    prompt = max(10, length // 3)
    return Encoded(token_ids, (*[IGNORED] * prompt, *token_ids[prompt:]))


def text_rows(samples: Sequence[Encoded]) -> list[dict[str, str]]:
    """Rows of texts that make about as many tokens, for who reads nothing but texts.

    Consonants, since a tokenizer merges few of them; a third is the question.
    """
    letters = random.Random(7)  # noqa: S311 - a benchmark's data
    rows = []
    for sample in samples:
        count = max(16, len(sample.token_ids) - TEMPLATE_TOKENS)
        text = "".join(letters.choice("bcdfghjkmnpqrstvwxz") for _ in range(count))
        rows.append({"instruction": text[: count // 3], "input": "", "output": text[count // 3 :]})
    return rows


@dataclass(frozen=True)
class Work:
    """A row of the table."""

    name: str
    cap_gib: float
    full: bool = False
    samples_per_step: int = 8

    def samples(self) -> list[Encoded]:
        """In the order in which every tool takes them."""
        return full_samples() if self.full else short_samples()


@dataclass(frozen=True)
class Variant:
    """One way to do a work, in a process of its own."""

    name: str
    work: str
    tool: str
    """`ours`, `hf`, `unsloth` or `llamafactory`."""
    options: dict[str, Any]


LONG = "long packs, cap 20 GiB"
LEAN = "long packs, cap 8 GiB"
STEPS = "8 samples a step, cap 20 GiB"
FULL = "full-length 1024, 8 a step, cap 20 GiB"
LONG_SAMPLES_A_STEP = 54  # about 8,000 tokens, what the peers' best pack holds

WORKS = {
    work.name: work
    for work in (
        Work(LONG, 20, samples_per_step=LONG_SAMPLES_A_STEP),
        Work(LEAN, 8, samples_per_step=LONG_SAMPLES_A_STEP),
        Work(STEPS, 20),
        Work(FULL, 20, full=True),
    )
}


def _ours(name: str, work: str, pack: int, checkpointing: str, *, captured: bool = True) -> Variant:
    options = {"pack_tokens": pack, "checkpointing": checkpointing, "captured": captured}
    return Variant(name, work, "ours", options)


VARIANTS = {
    variant.name: variant
    for variant in (
        _ours("ours 4096 selective", LONG, 4096, "selective"),
        _ours("ours 2048 none", LONG, 2048, "none"),
        Variant("unsloth packed 8192", LONG, "unsloth", {"bs": 1, "ga": 1, "pack": 8192}),
        Variant("hf+liger packed 4096", LONG, "hf", {"pack": 4096, "ga": 2, "checkpoint": True}),
        Variant("llamafactory neat packing+liger", LONG, "llamafactory", {"pack": 4096, "ga": 2}),
        _ours("ours 8 GiB, 4096 full", LEAN, 4096, "full"),
        _ours("ours 8 GiB, 3072 full", LEAN, 3072, "full"),
        _ours("ours 8 GiB, 8192 full, not captured", LEAN, 8192, "full", captured=False),
        Variant("unsloth 8 GiB, packed 8192", LEAN, "unsloth", {"bs": 1, "ga": 1, "pack": 8192}),
        _ours("ours 8 samples", STEPS, 4096, "none"),
        Variant("unsloth bs 8", STEPS, "unsloth", {"bs": 8, "ga": 1}),
        Variant("hf+liger 8 flattened", STEPS, "hf", {"pack": -8, "ga": 1, "checkpoint": False}),
        Variant("llamafactory, the article's recipe", STEPS, "llamafactory", {"bs": 1, "ga": 8}),
        _ours("ours 1024, 4096 selective", FULL, 4096, "selective"),
        _ours("ours 1024, 2048 none", FULL, 2048, "none"),
        Variant("unsloth 1024, bs 8", FULL, "unsloth", {"bs": 8, "ga": 1}),
        Variant("unsloth 1024, bs 1", FULL, "unsloth", {"bs": 1, "ga": 8}),
        Variant("hf+liger 1024, bs 1", FULL, "hf", {"bs": 1, "ga": 8, "checkpoint": True}),
    )
}
