"""This trainer, through its own loop: `train._train`, with its log, its status and its checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer import train as training
from trainer.bench.work import LORA_RANK
from trainer.config import Config
from trainer.options import RunOptions
from trainer.plan import Wishes
from trainer.progress import Status
from trainer.session import Material, Session, assemble
from trainer.stop import StopRequests

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.bench.turns import Turns
    from trainer.bench.work import Variant, Work
    from trainer.template import Encoded

NEVER = 10**9


def train(variant: Variant, work: Work, model: Path, folder: Path, turns: Turns) -> None:
    """Take the steps that `turns` asks for."""
    config = Config(
        model_name_or_path=str(model),
        dataset=model / "config.json",
        output_dir=folder / "output",
        quantization_bit=4,
        lora_rank=LORA_RANK,
        per_device_train_batch_size=work.samples_per_step,
        gradient_accumulation_steps=1,
        max_steps=turns.total_steps,
        logging_steps=1,
        save_steps=NEVER,
        save_interval_s=0,
        run=RunOptions(
            wishes=Wishes(
                pack_tokens=variant.options["pack_tokens"],
                checkpointing=variant.options["checkpointing"],
                compiled=True,
                captured=variant.options["captured"],
            )
        ),
    )
    config.output_dir.mkdir(parents=True, exist_ok=True)
    status = Status(config.output_dir)
    material = Material(work.samples(), [], 0, "random")
    with StopRequests() as stop:
        session = assemble_in_order(config, stop, status, material)
        training._train(session, lambda _step: turns.step_done())  # noqa: SLF001 - the loop itself


def assemble_in_order(
    config: Config, stop: StopRequests, status: Status, material: Material
) -> Session:
    """`session.assemble`, with the samples taken in the order that the peers take them in."""
    import trainer.session as module

    class InOrder(module.Session):
        def samples_of(self, step: int) -> list[Encoded]:
            size = self.config.samples_per_step
            count = len(self.samples)
            return [self.samples[(step * size + i) % count] for i in range(size)]

    kept: Any = module.Session
    module.Session = InOrder  # type: ignore[misc]
    try:
        return assemble(config, stop, status, material)
    finally:
        module.Session = kept  # type: ignore[misc]
