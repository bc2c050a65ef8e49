"""`training_loss.png`, for those who like to look; it is not needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trainer.progress import LOG_NAME, warn

if TYPE_CHECKING:
    from pathlib import Path

PICTURE_NAME = "training_loss.png"


def draw(output_dir: Path) -> bool:
    """Whether `training_loss.png` now shows the log's losses; without matplotlib it is passed over.

    Labels are English: fonts for Chinese are often absent, and boxes would stand in their place.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    try:
        trained, judged = curves(output_dir / LOG_NAME)
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="step", ylabel="loss", title="training loss")
        axes.plot(list(trained), list(trained.values()), label="training")
        if judged:
            axes.plot(list(judged), list(judged.values()), marker="o", label="held-out")
        axes.grid(alpha=0.3)
        axes.legend()
        temporary = output_dir / f".{PICTURE_NAME}"
        figure.savefig(temporary, format="png", dpi=120)
        temporary.replace(output_dir / PICTURE_NAME)
    except OSError as error:
        warn(f"{PICTURE_NAME}: {error}")
        return False
    return True


def curves(log: Path) -> tuple[dict[int, float], dict[int, float]]:
    """(training loss, held-out loss) by step; a step that was done again counts as last done."""
    trained: dict[int, float] = {}
    judged: dict[int, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        facts = json.loads(line)
        step = facts["current_steps"]
        if facts.get("loss") is not None:
            trained[step] = facts["loss"]
        if facts.get("eval_loss") is not None:
            judged[step] = facts["eval_loss"]
    return dict(sorted(trained.items())), dict(sorted(judged.items()))
