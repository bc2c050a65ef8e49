"""The gate between two stages: what a stage must show before the next may spend."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from costguard.core.snapshot import TrainingFacts, Verdict

if TYPE_CHECKING:
    from costguard.core.spec import Stage

LAST_LOSSES = 5  # as many as are kept of the beginning


def judge_gate(facts: TrainingFacts, stage: Stage) -> Verdict | None:
    """`gate` where the stage's loss fell by less than its gate asks, or cannot be told; else None.

    Compares the median of the first few logged losses with that of the last few: a single loss
    of a small batch says little.
    """
    wanted = stage.gate_loss_drop_percent
    if wanted is None:
        return None
    last = [step.loss for step in facts.steps[-LAST_LOSSES:] if step.loss is not None]
    if not last or not facts.first_losses or median(facts.first_losses) <= 0:
        evidence: dict[str, Any] = {"wanted_percent": wanted, "logged_steps": len(facts.steps)}
        return Verdict("gate", "the stage logged no loss to judge it by", evidence, save=False)
    first_loss, last_loss = median(facts.first_losses), median(last)
    fell_percent = 100 * (first_loss - last_loss) / first_loss
    if fell_percent >= wanted:
        return None
    evidence = {
        "first_loss": round(first_loss, 4),
        "last_loss": round(last_loss, 4),
        "fell_percent": round(fell_percent, 1),
        "wanted_percent": wanted,
    }
    text = f"the loss fell by {fell_percent:.1f} %, the gate asks for {wanted} %"
    return Verdict("gate", text, evidence, save=False)
