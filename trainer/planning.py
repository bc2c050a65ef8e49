"""Which plan a run takes: fixed, kept, measured before, or estimated for the card at hand."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer import memory, model as models, plan as plans, state
from trainer.packing import tokens_in

if TYPE_CHECKING:
    from trainer.checkpoint import Checkpoint
    from trainer.session import Session


def choose_plan(session: Session, checkpoint: Checkpoint | None) -> plans.Plan:
    """What the user fixed, else what the checkpoint ran with on the same card, else a new choice.

    A new one is what `plan` measured for this card and model, if it did, else an estimate.
    """
    config, device = session.config, session.device
    wishes = config.run.wishes
    if config.gradient_checkpointing is False and wishes.checkpointing is None:
        wishes = replace(wishes, checkpointing="none")
    before = state.execution_of(checkpoint.files) if checkpoint else {}
    if before.get("device") == session.execution["device"] and "plan" in before:
        return wishes.apply(plans.from_json(before["plan"]))
    cached = plans.recall(plan_key(session))
    if cached:
        return wishes.apply(cached)
    if device.type == "cpu":
        return wishes.apply(plans.cpu_plan())
    return estimated_plans(session)[0]


def estimated_plans(session: Session) -> list[plans.Plan]:
    """The plans that should fit the card at hand, the fastest estimate first; never none."""
    config, wishes = session.config, session.config.run.wishes
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


def plan_key(session: Session) -> str:
    """What a measured plan holds for: card, driver, versions, model, LoRA, samples of a step."""
    config = session.config
    parts = [
        *(value for name, value in session.execution.items() if name != "plan"),
        models.driver_version(), models.identity(config),
        config.lora_rank, config.lora_target, config.lora_dropout > 0, config.quantization_bit,
        config.samples_per_step, config.cutoff_len,
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
