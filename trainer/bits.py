"""4 bits or bf16, where `--quantization_bit auto` leaves the choice to the card at hand.

The choice changes what is learnt, so it is made once: a run goes on with what its checkpoint has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainer import memory, model as models, plan as plans, state
from trainer.adapter import find_adapter
from trainer.planning import plan_key, wishes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.checkpoint import Checkpoint
    from trainer.config import Config

CHOICES: tuple[int | None, ...] = (4, None)


def settle(
    config: Config,
    execution: Mapping[str, Any],
    checkpoint: Checkpoint | None,
    device: Any,
    longest: int,
) -> tuple[Config, str]:
    """`config` with its bits fixed, and where they came from, in words.

    What the user said; else the checkpoint's, the first adapter's, what `plan` measured, or an
    estimate. `longest`: the most tokens of any sample.
    """
    if not config.run.auto_bits:
        given = config.quantization_bit is not None
        return config, "as --quantization_bit says" if given else "--quantization_bit is not given"
    if models.is_quantised(config):
        return replace(config, quantization_bit=4), "the model's files are in 4 bits"
    if checkpoint:
        bits = state.semantics_of(checkpoint.files)["quantization_bit"]
        return replace(config, quantization_bit=bits), "the checkpoint's"
    if config.run.init_adapter:
        quantised = find_adapter(str(config.run.init_adapter)).quantised
        if quantised is not None:
            bits = 4 if quantised else None
            return replace(config, quantization_bit=bits), "what --init_adapter was trained on"
    measured = plans.recall(plan_key(config, execution, any_bits=True))
    if measured:
        return replace(config, quantization_bit=measured.bits), "measured by plan"
    if device.type == "cpu":
        return replace(config, quantization_bit=4), "usual on a CPU; `plan` would measure"
    card = models.measure_card(device)
    return replace(config, quantization_bit=estimate(config, card, longest)), (
        f"estimated for {card.name}; `plan` would measure"
    )


def estimate(config: Config, card: plans.Card, longest: int) -> int | None:
    """The bits whose best plan costs least time by the memory model; 4 where bf16 does not fit."""
    costs: dict[int | None, float] = {}
    for bits in CHOICES:
        shape = _shape(config, quantised=bits is not None)
        found = plans.candidates(
            card, shape, longest=longest, step_tokens=longest * config.samples_per_step,
            random=config.lora_dropout > 0,
        )  # fmt: skip
        if found:
            best = wishes_of(config).apply(found[0])
            costs[bits] = plans.run_s(card, shape, best, 1)
    return min(costs, key=lambda bits: costs[bits], default=4)


def needed_text(config: Config) -> str:
    """What the weights alone need either way, by the memory model: for who wonders."""
    needed = {
        quantised: _shape(config, quantised=quantised).weight_bytes() / memory.GIB
        for quantised in (True, False)
    }
    return f"the weights take {needed[True]:.1f} GiB in 4 bits, {needed[False]:.1f} GiB in bf16"


def _shape(config: Config, *, quantised: bool) -> memory.Shape:
    from transformers import AutoConfig

    model_config = AutoConfig.from_pretrained(config.model_name_or_path)
    return memory.shape_of(model_config, config.lora_rank, quantised=quantised)
