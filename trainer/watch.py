"""When to stop early for money: a loss that is no number, that has run away, or that stays put."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.9
DIVERGED_STEPS = 20
"""For so many steps in a row the smoothed loss must be too high: one bad batch is no divergence."""


@dataclass
class Watch:
    """What has been seen of the losses; kept in checkpoints, so that a resume judges the same."""

    smoothed: float | None = None
    lowest: float | None = None
    steps_too_high: int = 0
    best_eval_loss: float | None = None
    best_eval_step: int = 0
    judgements_without_better: int = 0

    def step(self, loss: float, diverged_factor: float) -> bool:
        """Whether the run has diverged: the smoothed loss is `diverged_factor` times its lowest.

        0 as the factor: never.
        """
        before = loss if self.smoothed is None else self.smoothed
        self.smoothed = SMOOTHING * before + (1 - SMOOTHING) * loss
        self.lowest = self.smoothed if self.lowest is None else min(self.lowest, self.smoothed)
        too_high = diverged_factor > 0 and self.smoothed > diverged_factor * self.lowest
        self.steps_too_high = self.steps_too_high + 1 if too_high else 0
        return self.steps_too_high >= DIVERGED_STEPS

    def judged(self, loss: float, step: int, min_improvement_percent: float) -> bool:
        """Whether `loss` on the held-out samples is the best so far.

        A better one that is not better by `min_improvement_percent` counts as no improvement
        when patience is reckoned.
        """
        best = self.best_eval_loss
        enough = best is None or loss < best * (1 - min_improvement_percent / 100)
        self.judgements_without_better = 0 if enough else self.judgements_without_better + 1
        if best is None or loss < best:
            self.best_eval_loss, self.best_eval_step = loss, step
            return True
        return False

    def plateau(self, patience: int) -> bool:
        """Whether `patience` judgements in a row brought nothing; 0: never."""
        return 0 < patience <= self.judgements_without_better
