"""A model's answer to tokens, computed a layer at a time: 7B in fp32 passes through 4 GB.

So an export is compared with what was trained on a laptop's CPU, not on a paid GPU. Each layer is
transformers' own; only its weights come and go. Arithmetic is fp32 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.template import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainer.template import Encoded

    Weights = Callable[[str], Any]

WORDS_AT_ONCE = 16_384
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True)
class Distance:
    """How far one model's next-token distributions are from another's, over all positions."""

    mean_kl: float
    max_kl: float
    same_first_percent: float
    positions: int


def log_probabilities(config_of: Path, weights: Weights, samples: Sequence[Encoded]) -> Any:
    """[positions, words]: the log-probability of each word where the samples train one.

    `weights(name)` gives a weight in any dtype; each is asked for once.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(config_of)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"), torch.inference_mode():
        causal = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    decoder = causal.model
    with torch.inference_mode():
        rotary = type(decoder.rotary_emb)(config=config)
        embedding = weights(EMBEDDING)
        hidden = [embedding[torch.tensor([e.token_ids])].float() for e in samples]
        tied = embedding if config.tie_word_embeddings else None
        del embedding
        for number, layer in enumerate(decoder.layers):
            prefix = f"model.layers.{number}."
            names = [name for name, _value in layer.named_parameters()]
            state = {name: weights(prefix + name).float() for name in names}
            layer.load_state_dict(state, assign=True, strict=True)
            del state
            for index, value in enumerate(hidden):
                hidden[index] = _through(layer, rotary, value)
            layer.to("meta")
        decoder.norm.load_state_dict({"weight": weights(NORM).float()}, assign=True)
        rows = torch.cat(
            [decoder.norm(h)[0, :-1][_trained(e)] for h, e in zip(hidden, samples, strict=True)]
        )
        head = weights(HEAD) if tied is None else tied
        parts = [rows @ part.float().T for part in head.split(WORDS_AT_ONCE)]
        return torch.log_softmax(torch.cat(parts, dim=1), dim=1)


def distance(reference: Any, other: Any) -> Distance:
    """KL(reference || other) in nats a token, and how often both would say the same word."""
    kl = (reference.exp() * (reference - other)).sum(dim=1).clamp_min(0)
    same = (reference.argmax(dim=1) == other.argmax(dim=1)).float().mean()
    return Distance(kl.mean().item(), kl.max().item(), 100 * same.item(), len(kl))


def _through(layer: Any, rotary: Any, hidden: Any) -> Any:
    """One layer, causal: without a mask, SDPA attends to the left alone."""
    import torch

    positions = torch.arange(hidden.shape[1])[None]
    out = layer(
        hidden,
        attention_mask=None,
        position_ids=positions,
        position_embeddings=rotary(hidden, positions),
    )
    return out[0] if isinstance(out, tuple) else out  # a tuple before transformers 4.56


def _trained(sample: Encoded) -> Any:
    import torch

    return torch.tensor(sample.labels[1:]) != IGNORED
