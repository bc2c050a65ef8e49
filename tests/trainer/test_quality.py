"""The gate on quality: what is saved in time must not be paid in what is learnt.

The same samples in the same order, in fp32 on a CPU, dropout 0, against a plain loop of
transformers, peft and bitsandbytes that packs nothing (bench/plain.py). Then faults are planted,
each of which must make the gate fail.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from trainer import attention, passes, train as training
from trainer.bench.plain import Curve, Recipe, train_plainly
from trainer.config import Config
from trainer.data import read_dataset
from trainer.disk import Disk
from trainer.exits import FINISHED
from trainer.make_model import build
from trainer.options import RunOptions
from trainer.packing import Pack, Packing, cut
from trainer.plan import Wishes
from trainer.publish import publish_directory
from trainer.template import IGNORED, Encoded, encode
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.torch

STEPS = 100
RATE = 5e-3
WARM_UP = 5
RANK = 16
FEW_STEPS = 4
RECIPE = {"hidden": 256, "layers": 1, "intermediate": 704, "vocab_size": 400,
          "max_positions": 512, "seed": 0}  # fmt: skip


def gate(ours: Curve, plain: Curve) -> None:
    """Pass only a run that learns what the plain one learns, and that learns something."""
    import torch

    difference = torch.linalg.vector_norm(ours.first_gradients - plain.first_gradients)
    assert difference <= 1e-3 * torch.linalg.vector_norm(plain.first_gradients), "gradients"
    for step, (here, there) in enumerate(zip(ours.losses, plain.losses, strict=False), start=1):
        assert math.isclose(here, there, rel_tol=1e-4), f"loss of step {step}: {here}, {there}"
    if len(ours.losses) >= STEPS:
        assert sum(ours.losses[-10:]) <= 0.8 * sum(ours.losses[:10]), "it learns too little"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    """A small model over the example's own words."""
    directory = tmp_path_factory.mktemp("quality") / "model"
    publish_directory(Disk(), directory, build(RECIPE, read_dataset(rows).samples), {"kind": "m"})
    return directory


@pytest.fixture(scope="module")
def ours(model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Curve:
    """A whole run of ours."""
    return train_ours(model, rows, tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def plain(model: Path, ours: Curve) -> Curve:
    """The plain loop over the same samples."""
    import torch

    recipe = Recipe(rank=RANK, rate=RATE, warmup_steps=WARM_UP, steps=STEPS)
    return train_plainly(model, ours.samples, recipe, torch.device("cpu"), torch.float32)


def train_ours(model: Path, rows: Path, output_dir: Path, *, stop_at: int = STEPS) -> Curve:
    """A run of ours; its packs are small, so that each step has several."""
    curve = Curve()

    class Watched(passes.Passes):
        def gradients(self, samples: Sequence[Encoded]) -> Any:
            import torch

            curve.samples.append(list(samples))
            loss = super().gradients(samples)
            if curve.first_gradients is None:
                gradients = [p.grad for p in self.model.parameters() if p.requires_grad]
                curve.first_gradients = torch.cat([g.flatten() for g in gradients]).clone()
            curve.losses.append(float(loss))
            return loss

    config = Config(
        model_name_or_path=str(model), dataset=rows, output_dir=output_dir,
        default_system="你是客服。", quantization_bit=4, lora_rank=RANK, lora_alpha=2 * RANK,
        per_device_train_batch_size=4, gradient_accumulation_steps=1, learning_rate=RATE,
        max_steps=STEPS, warmup_steps=WARM_UP, threads=1, save_steps=STEPS,
        run=RunOptions(wishes=Wishes(pack_tokens=256)),
    )  # fmt: skip
    output_dir.mkdir(exist_ok=True)
    (output_dir / "control.json").write_text(json.dumps({"stop_at_step": stop_at}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.session.Passes", Watched)
        assert run(config) == FINISHED
    return curve


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_it_learns_what_the_plain_loop_learns(ours: Curve, plain: Curve) -> None:
    """100 steps: losses within 1e-4, first gradients within 1e-3, the loss falls by 20 %."""
    assert len(ours.losses) == STEPS
    gate(ours, plain)


def see_across_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that sees the whole pack."""
    monkeypatch.setattr(attention, "_segment_of_each", lambda batch: batch["input_ids"][0] * 0)


def mean_of_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pack's mean loss, averaged over the packs, whatever they hold."""

    def gradients(self: passes.Passes, samples: Sequence[Encoded]) -> Any:
        total: Any = 0.0
        packs = self.packing.packs(samples)
        for pack in packs:
            trained = sum(target != IGNORED for target in pack.targets)
            flat = self._to_device(pack)
            part = self._loss_sum(flat, pack.shape) / trained / len(packs)
            part.backward()
            total += part.detach()
        return total

    monkeypatch.setattr(passes.Passes, "gradients", gradients)


def train_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token of the question is trained too."""

    def unmasked(*arguments: Any) -> list[Encoded]:
        return [Encoded(e.token_ids, (IGNORED, *e.token_ids[1:])) for e in encode(*arguments)]

    monkeypatch.setattr("trainer.session.encode", unmasked)


def train_the_first_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token of a sample is taught to predict the first one of the next."""
    packs = Packing.packs

    def leaking(self: Any, samples: Sequence[Encoded]) -> list[Pack]:
        found = packs(self, samples)
        for pack in found:
            if IGNORED in pack.targets and pack.boundaries[1] < pack.shape.tokens:
                free = pack.targets.index(IGNORED)
                pack.rows[free] = pack.boundaries[1] - 1
                pack.targets[free] = pack.token_ids[pack.boundaries[1]]
        return found

    monkeypatch.setattr(Packing, "packs", leaking)


def learn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate is 0."""
    monkeypatch.setattr(training, "_rate", lambda _session: 0.0)


@pytest.mark.parametrize(
    "fault",
    [see_across_samples, mean_of_means, train_the_prompt, train_the_first_label, learn_nothing],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_gate_sees_a_planted_fault(
    fault: Any, model: Path, rows: Path, tmp_path: Path, plain: Curve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A few steps with the fault do not pass, and the same few without it do."""
    fault(monkeypatch)
    faulty = train_ours(model, rows, tmp_path / "output", stop_at=FEW_STEPS)
    assert len(faulty.losses) == FEW_STEPS
    with pytest.raises(AssertionError, match=r"gradients|loss of step"):
        gate(faulty, plain)


def test_a_run_that_learns_too_little_does_not_pass(ours: Curve, plain: Curve) -> None:
    """Two flat curves that agree are no proof."""
    flat = dataclasses.replace(plain, losses=[6.0] * STEPS)
    with pytest.raises(AssertionError, match="too little"):
        gate(dataclasses.replace(ours, losses=[6.0] * STEPS), flat)


def test_the_packs_of_a_step_are_several_and_hold_several(ours: Curve) -> None:
    """Otherwise the gate would have nothing to see of packing."""
    packs = [cut(samples, 256) for samples in ours.samples]
    assert max(len(pack) for step in packs for pack in step) > 1
    assert max(len(step) for step in packs) > 1
