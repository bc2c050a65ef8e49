"""How much memory and time a plan needs, estimated from the model's shape.

The numbers are those measured on one H200 with Qwen2.5-7B's shape (see bench/EXPERIMENTS.md),
scaled by the widths of the model at hand. They only choose what to try first: a probe measures,
and a run that meets the end of the card's memory takes the next smaller plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30
KIB = 2**10
MEASURED_HIDDEN, MEASURED_INNER = 3584, 18944

# Kept for the backward pass, of each token in each layer of a 7B model.
KEPT_KIB = {"none": 216, "selective": 116, "full": 21}
KEPT_COMPILED_KIB = {"none": 168, "selective": 116, "full": 21}
RUNTIME_BYTES = int(0.9 * GIB)
"""The CUDA context, libraries' workspaces, fragmentation."""
NF4_BYTES_PER_WEIGHT = 0.516
"""A half byte, and the constants of blocks of 64, themselves in 8 bits (QLoRA, section 3)."""

# Time for a token, with everything kept and long packs as 1.
RECOMPUTE_FACTOR = {"none": 1.0, "selective": 1.07, "full": 1.42}
EAGER_FACTOR = 1.18
PASS_TOKENS = 440
"""A pass costs as much more as these tokens would: weights are dequantised, whatever its size."""
PASS_TOKENS_BF16 = 150
"""The same without dequantising, which was 17 of the 26 % that PASS_TOKENS stand for in passes of
1,270 tokens. Reckoned, not measured: a probe tells."""
TRAIN_FLOP_PER_WEIGHT = 4.0
"""Of a frozen product and token: 2 forward, 2 for the gradient of its input."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides memory and time."""

    hidden: int
    inner: int
    layers: int
    words: int
    keys: int
    """The width of k_proj and v_proj."""
    rank: int
    quantised: bool

    def linear_weights(self) -> int:
        """Weights of the layers' matrices."""
        attention = 2 * self.hidden * (self.hidden + self.keys)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    def weight_bytes(self) -> int:
        """What the frozen model takes."""
        per_weight = NF4_BYTES_PER_WEIGHT if self.quantised else 2.0
        return int(self.linear_weights() * per_weight + 2 * 2 * self.words * self.hidden)

    def lora_bytes(self) -> int:
        """Adapters on every matrix: weights, gradients and Adam's two moments, all in fp32."""
        widths = 4 * self.hidden + 2 * (self.hidden + self.keys) + 3 * (self.hidden + self.inner)
        return 16 * self.rank * self.layers * widths

    def train_flop_per_token(self) -> float:
        """Without recomputing: what the card's limit is reckoned from."""
        return TRAIN_FLOP_PER_WEIGHT * (self.linear_weights() + self.words * self.hidden)


def shape_of(model_config: Any, rank: int, *, quantised: bool) -> Shape:
    """The Shape of a transformers config of Qwen2's kind."""
    heads = model_config.num_attention_heads
    return Shape(
        hidden=model_config.hidden_size,
        inner=model_config.intermediate_size,
        layers=model_config.num_hidden_layers,
        words=model_config.vocab_size,
        keys=model_config.hidden_size // heads * model_config.num_key_value_heads,
        rank=rank,
        quantised=quantised,
    )


def bytes_needed(shape: Shape, tokens: int, checkpointing: str, *, compiled: bool) -> int:
    """What a pass over a pack of `tokens` needs of the card, all in all."""
    kept = (KEPT_COMPILED_KIB if compiled else KEPT_KIB)[checkpointing] * KIB
    width = (shape.hidden + shape.inner) / (MEASURED_HIDDEN + MEASURED_INNER)
    activations = tokens * shape.layers * kept * width
    logits = 512 * shape.words * 10 + 4 * tokens * shape.hidden
    return int(shape.weight_bytes() + shape.lora_bytes() + activations + logits + RUNTIME_BYTES)


def cost_per_token(
    tokens: int, checkpointing: str, *, compiled: bool, quantised: bool = True
) -> float:
    """Time for a token in passes of `tokens`; 1 for long packs, compiled, with everything kept."""
    factor = RECOMPUTE_FACTOR[checkpointing] * (1.0 if compiled else EAGER_FACTOR)
    return factor * (1 + (PASS_TOKENS if quantised else PASS_TOKENS_BF16) / tokens)
