"""How many tokens samples have: counted by a tokenizer where one is at hand, else estimated.

Needs no torch: a model's `tokenizer.json` is read by the `tokenizers` package alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.exits import USAGE, Refusal
from trainer.template import segments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.sample import Sample

# DeepSeek's page "Token & Token Usage" gives 0.6 token for a Chinese character and 0.3 for an
# English one. An estimate: only the model's own tokenizer knows, and `train` asks that one.
TOKENS_PER_CJK_CHARACTER = 0.6
TOKENS_PER_OTHER_CHARACTER = 0.3
TEMPLATE_TOKENS_PER_TURN = 10
TEMPLATE_TOKENS_OF_SYSTEM = 5


@dataclass(frozen=True)
class Length:
    """The tokens of one sample, and how many of them are trained."""

    total: int
    supervised: int


def estimate(samples: Sequence[Sample], default_system: str) -> list[Length]:
    """Lengths told from characters, for a Qwen-like tokenizer, template included."""
    return [
        Length(
            estimate_tokens(sample, default_system),
            sum(round(_text_tokens(answer)) + 1 for answer in sample.trained_answers()),
        )
        for sample in samples
    ]


def estimate_tokens(sample: Sample, default_system: str) -> int:
    """About how many tokens the sample has, all in all."""
    texts = [*sample.texts(), default_system if sample.system is None else ""]
    template = TEMPLATE_TOKENS_OF_SYSTEM + TEMPLATE_TOKENS_PER_TURN * len(sample.turns())
    return round(_text_tokens("".join(texts))) + template


def count(samples: Sequence[Sample], model: Path, default_system: str) -> list[Length]:
    """Lengths as `train` will have them, by the tokenizer in the directory `model`. Refusal."""
    tokenizer = _load(model)
    lengths = []
    for sample in samples:
        pieces = segments(sample, default_system)
        encoded = tokenizer.encode_batch([text for text, _trained in pieces])
        counts = [len(piece.ids) for piece in encoded]
        trained = [n for n, (_text, trained) in zip(counts, pieces, strict=True) if trained]
        lengths.append(Length(sum(counts), sum(trained)))
    return lengths


def _load(model: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        hint = "pip install tokenizers, or leave it out: lengths are then estimated"
        raise Refusal(
            USAGE, "tokenizers is not installed", where="--tokenizer", hint=hint
        ) from error
    path = model / "tokenizer.json" if model.is_dir() else model
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        hint = "give a model's directory, with a tokenizer.json in it"
        raise Refusal(USAGE, f"no tokenizer: {error}", where=str(path), hint=hint) from error


def _text_tokens(text: str) -> float:
    cjk = sum("\u2e80" <= character <= "\u9fff" for character in text)
    return cjk * TOKENS_PER_CJK_CHARACTER + (len(text) - cjk) * TOKENS_PER_OTHER_CHARACTER
