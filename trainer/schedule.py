"""The learning rate as a pure function of the step, so that a resume needs only its number."""

from __future__ import annotations

import math

SCHEDULERS = ("cosine", "linear", "constant")


def learning_rate(
    step: int, *, peak: float, scheduler: str, warmup_steps: int, total_steps: int
) -> float:
    """The rate that step `step` (from 0) uses; the same curve as transformers' schedules.

    Up from 0 to `peak` in `warmup_steps`, then along the named curve to 0 at `total_steps`.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    if scheduler == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if scheduler == "linear":
        return peak * max(0.0, 1.0 - progress)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
