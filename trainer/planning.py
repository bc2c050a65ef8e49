"""Which plan a run takes: fixed, kept, measured before, or estimated for the card at hand."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainer import memory, model as models, plan as plans, state
from trainer.packing import tokens_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.checkpoint import Checkpoint
    from trainer.config import Config
    from trainer.session import Session

FLAGS = {
    "pack_tokens": "--pack_tokens", "checkpointing": "--checkpointing", "compiled": "--compile",
    "captured": "--cuda_graphs", "attention": "--attention",
}  # fmt: skip
"""The flag that fixes each part of a plan."""
ON_A_CPU = {
    "pack_tokens": "usual on a CPU", "checkpointing": "a CPU has the memory",
    "compiled": "not on a CPU", "captured": "not on a CPU", "attention": "what a CPU has",
}  # fmt: skip
"""Where each part of a plan comes from there, unless a flag fixes it."""


def choose_plan(session: Session, checkpoint: Checkpoint | None) -> tuple[plans.Plan, str]:
    """What the user fixed, else what the checkpoint ran with on the same card, else a new choice.

    A new one is what `plan` measured for this card and model, if it did, else an estimate. Beside
    the plan stands where it came from, in words.
    """
    config, device = session.config, session.device
    wishes = wishes_of(config)
    before = state.execution_of(checkpoint.files) if checkpoint else {}
    if "plan" in before:
        if before.get("device") == session.execution["device"]:
            if before.get(state.RETREATED):  # what the user fixed has been tried there
                session.execution[state.RETREATED] = True
                return plans.from_json(before["plan"]), "the checkpoint's, after memory ran out"
            return wishes.apply(plans.from_json(before["plan"])), "the checkpoint's"
        new_on = f"{session.execution['device']}, where the checkpoint's ran on {before['device']}"
    else:
        new_on = session.execution["device"]
    measured = plans.recall(plan_key(config, session.execution))
    if measured:
        return wishes.apply(measured.plan), f"measured on {new_on}"
    if device.type == "cpu":
        return wishes.apply(plans.cpu_plan()), f"usual on {new_on}"
    return estimated_plans(session)[0], f"estimated for {new_on}"


def wishes_of(config: Config) -> plans.Wishes:
    """What the command line fixes of the plan."""
    wishes = config.run.wishes
    if config.gradient_checkpointing is False and wishes.checkpointing is None:
        return replace(wishes, checkpointing="none")
    return wishes


def estimated_plans(session: Session) -> list[plans.Plan]:
    """The plans that should fit the card at hand, the fastest estimate first; never none."""
    config, wishes = session.config, wishes_of(session.config)
    if session.device.type == "cpu":
        budgets = (plans.CPU_BUDGET_TOKENS, 2 * plans.CPU_BUDGET_TOKENS, session.longest())
        found = [replace(plans.cpu_plan(), pack_tokens=budget) for budget in budgets]
        return list(dict.fromkeys(wishes.apply(plan) for plan in found))
    card = models.measure_card(session.device)
    quantised = config.quantization_bit is not None
    model_config = session.model.get_base_model().config
    shape = memory.shape_of(model_config, config.lora_rank, quantised=quantised)
    step_tokens = [tokens_in(session.samples_of(step)) for step in range(session.total_steps)]
    random = config.lora_dropout > 0
    longest = session.longest()
    found = plans.candidates(
        card, shape, longest=longest, step_tokens=max(step_tokens), random=random
    ) or [plans.last_resort(card, longest=longest, random=random)]
    left = sum(step_tokens[session.progress.step :])
    return list(
        dict.fromkeys(
            wishes.apply(
                replace(
                    plan,
                    compiled=plans.worth_compiling(card, shape, plan, left, plans.SHAPES_AT_MOST),
                )
            )
            for plan in found
        )
    )


def sources(session: Session) -> dict[str, str]:
    """Where each part of an estimated plan comes from, in words, by the part's name."""
    wishes = wishes_of(session.config)
    fixed = {
        part: f"as {flag} says" for part, flag in FLAGS.items() if getattr(wishes, part) is not None
    }
    if session.device.type == "cpu":
        return {**ON_A_CPU, **fixed}
    random = session.config.lora_dropout > 0
    return {
        "pack_tokens": "the memory model, and what one step has",
        "checkpointing": "the memory model",
        "compiled": f"estimated: whether it pays over {session.total_steps} steps",
        "captured": "dropout draws anew each time" if random else "the card waits less for it",
        "attention": "the best that this torch has for the card",
        **fixed,
    }


def plan_key(config: Config, execution: Mapping[str, Any], *, any_bits: bool = False) -> str:
    """What a measured plan holds for: card, driver, versions, model, LoRA, samples of a step.

    With `any_bits`, the key under which the choice between 4 bits and bf16 is kept.
    """
    parts = [
        *(value for name, value in execution.items() if name not in {"plan", state.RETREATED}),
        models.driver_version(), models.identity(config),
        config.lora_rank, config.lora_target, config.lora_dropout > 0,
        "any" if any_bits else config.quantization_bit,
        config.samples_per_step, config.cutoff_len,
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
