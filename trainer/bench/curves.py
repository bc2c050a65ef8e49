"""`python -m trainer.bench.curves OUT`: ours and the plain loop on real text, laid over another.

On a card in bf16 with everything on (packs, selective checkpointing, compiled, captured), else in
fp32. Writes `curves.json` and `curves.png`; exits 1 if a step differs by more than 1 %, or if the
loss falls by less than 20 %.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.bench.plain import Curve, Recipe, train_plainly
from trainer.config import Config
from trainer.data import read_dataset
from trainer.disk import Disk
from trainer.exits import FINISHED
from trainer.make_model import build
from trainer.options import RunOptions
from trainer.passes import Passes
from trainer.plan import Wishes
from trainer.progress import say
from trainer.publish import publish_directory
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.template import Encoded

EXAMPLE = Path(__file__).parents[1] / "examples" / "kefu" / "train.jsonl"
SIZES = {"hidden": 256, "layers": 2, "intermediate": 704, "vocab_size": 512,
         "max_positions": 2048, "seed": 0}  # fmt: skip
RECIPE = Recipe(rank=16, rate=5e-3, warmup_steps=5, steps=120)
TOLERANCE = 0.01
LEAST_FALL = 0.2
ENDS = 10
"""So many steps at each end of the curve are averaged to see how far it fell."""


def compare(out: Path) -> dict[str, Any]:
    """Both curves, how far they are apart, and whether that passes; files are left in `out`."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    model = out / "model"
    publish_directory(Disk(), model, build(SIZES, read_dataset(EXAMPLE).samples), {"kind": "m"})
    ours = train_ours(model, out / "ours", RECIPE, on_card=torch.cuda.is_available())
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    plain = train_plainly(model, ours.samples, RECIPE, device, dtype)
    apart = [abs(a - b) / b for a, b in zip(ours.losses, plain.losses, strict=True)]
    fall = 1 - sum(ours.losses[-ENDS:]) / sum(ours.losses[:ENDS])
    found = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "ours": ours.losses, "plain": plain.losses, "apart_max": max(apart), "fall": fall,
        "passes": max(apart) <= TOLERANCE and fall >= LEAST_FALL,
    }  # fmt: skip
    (out / "curves.json").write_text(json.dumps(found), encoding="utf-8")
    _draw(found, out / "curves.png")
    return found


def train_ours(model: Path, output_dir: Path, recipe: Recipe, *, on_card: bool) -> Curve:
    """A run of ours, with what it saw."""
    import trainer.session as module

    curve = Curve()

    class Watched(Passes):
        def gradients(self, samples: Sequence[Encoded]) -> Any:
            loss = super().gradients(samples)
            curve.samples.append(list(samples))
            curve.losses.append(float(loss))
            return loss

    wishes = Wishes(
        pack_tokens=512,
        checkpointing="selective" if on_card else None,
        compiled=on_card,
        captured=on_card,
    )
    config = Config(
        model_name_or_path=str(model), dataset=EXAMPLE, output_dir=output_dir,
        quantization_bit=4, lora_rank=recipe.rank, lora_alpha=2 * recipe.rank,
        per_device_train_batch_size=8, gradient_accumulation_steps=1, learning_rate=recipe.rate,
        warmup_steps=recipe.warmup_steps, max_steps=recipe.steps, seed=recipe.seed,
        save_steps=recipe.steps, threads=0 if on_card else 1,
        run=RunOptions(wishes=wishes, plot=False),
    )  # fmt: skip
    setattr(module, "Passes", Watched)  # noqa: B010 - the class is looked up there by name
    try:
        code = run(config)
    finally:
        setattr(module, "Passes", Passes)  # noqa: B010 - as above
    if code != FINISHED:
        raise AssertionError(f"the run ended with {code}")
    return curve


def _draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    axes.set_title(f"{found['device']}: at most {100 * found['apart_max']:.3f} % apart")
    axes.plot(found["plain"], label="transformers + peft + bitsandbytes, no packing", linewidth=4,
              alpha=0.4)  # fmt: skip
    axes.plot(found["ours"], label="ours", linewidth=1)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    result = compare(Path(sys.argv[1]))
    shown = ("device", "apart_max", "fall", "passes")
    say(json.dumps({name: result[name] for name in shown}))
    sys.exit(0 if result["passes"] else 1)
