"""The plain loop that ours is held against: transformers, peft and bitsandbytes, packing nothing.

Written as those libraries' manuals have it, and sharing no code with the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.template import IGNORED, Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Recipe:
    """What both loops are told."""

    rank: int
    rate: float
    warmup_steps: int
    steps: int
    seed: int = 42


@dataclass
class Curve:
    """What a run showed: its losses, the first step's gradients, the samples of each step."""

    losses: list[float] = field(default_factory=list)
    first_gradients: Any = None
    samples: list[list[Encoded]] = field(default_factory=list)


def train_plainly(
    model: Path, steps: Sequence[list[Encoded]], recipe: Recipe, device: Any, dtype: Any
) -> Curve:
    """The curve of training on the samples of each of `steps`, one sample after another."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        BitsAndBytesConfig,
        get_cosine_schedule_with_warmup,
    )

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=nf4, dtype=dtype,
        device_map={"": 0} if device.type == "cuda" else None,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    lora = LoraConfig(
        r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    trained = get_peft_model(base, lora).train()
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    curve = Curve(samples=list(steps))
    for samples in steps:
        supervised = sum(sample.supervised() for sample in samples)
        total = 0.0
        for sample in samples:
            ids = torch.tensor([sample.token_ids], device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = trained(input_ids=ids).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.float(), torch.tensor(sample.labels[1:], device=device),
                ignore_index=IGNORED, reduction="sum",
            )  # fmt: skip
            (loss / supervised).backward()
            total += loss.item() / supervised
        curve.losses.append(total)
        if curve.first_gradients is None:
            curve.first_gradients = torch.cat([p.grad.flatten() for p in parameters]).clone()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return curve
