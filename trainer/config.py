"""Everything that a run is told, in one place, with LLaMA-Factory's names."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.download import Wanted
from trainer.formats.shapes import AUTO, RowFormat
from trainer.options import RunOptions
from trainer.template import QWEN_DEFAULT_SYSTEM

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Config:
    """The options of `train`. `flags.parse_train` makes it from a command line and checks it."""

    model_name_or_path: str
    dataset: Path
    """The file itself, found already."""
    output_dir: Path
    row_format: RowFormat = AUTO
    """How the rows are to be read, as `dataset_info.json` says."""
    model_source: str | None = None
    model_revision: str | None = None
    cache_dir: Path | None = None
    default_system: str = QWEN_DEFAULT_SYSTEM
    lora_target: str = "all"
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    quantization_bit: int | None = None
    double_quantization: bool = True
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 8
    gradient_checkpointing: bool | None = None
    """None: on a GPU, where memory is what is short; not on a CPU."""
    learning_rate: float = 2e-4
    lr_scheduler_type: str = "cosine"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    """Of all steps; `warmup_steps` wins if it is given."""
    num_train_epochs: float = 3.0
    max_steps: int = -1
    max_samples: int | None = None
    cutoff_len: int = 1024
    max_bad_percent: float = 0.0
    """More bad rows than this share, and the run is refused; fewer are named and left out."""
    val_size: float = 0.0
    """Held out of training: a share below 1, or a number of samples."""
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch"
    seed: int = 42
    logging_steps: int = 10
    save_steps: int = 500
    save_interval_s: float = 180.0
    save_total_limit: int = 3
    resume: str = "auto"
    threads: int = 0
    """0: as many as there are cores, 2 at most."""
    run: RunOptions = field(default_factory=RunOptions)
    """How it runs, when it judges and stops early."""
    notices: tuple[str, ...] = ()
    """What the command line asked for and gets in another way, or not at all."""

    @property
    def samples_per_step(self) -> int:
        """How many samples one optimizer step sees."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def semantics(self) -> dict[str, Any]:
        """The options that decide what is learnt. They must not change between resumes.

        The micro-batch is not among them, only its product with the accumulation; nor is when
        to save, to log, or how many threads compute.
        """
        names = (
            "default_system", "lora_target", "lora_rank", "lora_alpha", "lora_dropout",
            "quantization_bit", "double_quantization", "samples_per_step", "learning_rate",
            "lr_scheduler_type", "warmup_steps", "max_samples", "cutoff_len", "max_grad_norm",
            "optim", "seed", "val_size", "warmup_ratio",
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in names},
            "row_format": asdict(self.row_format),
            "init_adapter": None if self.run.init_adapter is None else str(self.run.init_adapter),
        }

    def wanted_model(self) -> Wanted:
        """The model as it was named, for who fetches it."""
        return Wanted(
            self.model_name_or_path, self.model_source, self.model_revision, self.cache_dir
        )

    def warmup(self, total_steps: int) -> int:
        """How many steps the learning rate takes to rise."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * total_steps)
