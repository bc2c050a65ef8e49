"""The options of the training core, with their flags: how it runs, when it judges, when it stops.

Apart from `config.py` because none of these is LLaMA-Factory's, or changes what a step learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.attention import KINDS
from trainer.boards import OFFLINE, SWANLAB_MODES, SwanLabOptions
from trainer.exits import USAGE, Refusal
from trainer.layers import CHECKPOINTING
from trainer.plan import Wishes

if TYPE_CHECKING:
    import argparse

AUTO = "auto"


@dataclass(frozen=True)
class RunOptions:
    """What `add_flags` offers, as `from_flags` reads it."""

    wishes: Wishes = field(default_factory=Wishes)
    begin: str = "checkpoint"
    """`checkpoint`: go on from the newest whole one, if there is one. `base`: begin anew."""
    init_adapter: Path | None = None
    """The adapter that the first step begins with: the last rung's of a ladder."""
    eval_steps: int = 0
    """Judge the held-out samples every so many steps; 0: at each epoch's end."""
    patience: int = 0
    """Stop after so many judgements without a better one; 0: never."""
    min_improvement_percent: float = 0.5
    diverged_factor: float = 3.0
    """Stop when the smoothed loss is so many times its best; 0: never."""
    auto_bits: bool = False
    """`--quantization_bit auto`: 4 bits or bf16, as suits the card."""
    tensorboard: bool = False
    swanlab: SwanLabOptions | None = None
    bar: bool = True
    """A progress bar where a person sits at a terminal."""
    plot: bool = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add this module's flags to `parser`."""
    how = parser.add_argument_group("how it runs (auto: chosen for the card at hand)")
    how.add_argument("--pack_tokens", default=AUTO, help="the most tokens of one pass")
    how.add_argument("--checkpointing", default=AUTO, choices=(AUTO, *CHECKPOINTING))
    how.add_argument("--compile", default=AUTO, choices=(AUTO, "true", "false"))
    how.add_argument("--cuda_graphs", default=AUTO, choices=(AUTO, "true", "false"))
    how.add_argument("--attention", default=AUTO, choices=(AUTO, *KINDS))
    when = parser.add_argument_group("where it begins, and when it stops early")
    when.add_argument("--from", dest="begin", default="checkpoint", choices=("checkpoint", "base"),
                      help="base: begin anew; the checkpoints there are put aside")  # fmt: skip
    when.add_argument("--init_adapter", type=Path, help="the adapter of the rung before")
    when.add_argument("--eval_steps", type=int, default=0, help="0: at each epoch's end")
    when.add_argument("--early_stopping_steps", type=int, default=0,
                      help="judgements without a better one; 0: never")  # fmt: skip
    when.add_argument("--min_improvement_percent", type=float, default=0.5)
    when.add_argument("--diverged_factor", type=float, default=3.0, help="0: never")
    boards = parser.add_argument_group("where its numbers are shown, besides trainer_log.jsonl")
    for name, text in (
        ("--tensorboard", "in runs/"),
        ("--use_swanlab", "in swanlog/; nothing is sent, unless --swanlab_mode says so"),
        ("--disable_tqdm", "no progress bar on a terminal either"),
    ):
        boards.add_argument(name, nargs="?", const="true", default="false", help=text)
    boards.add_argument("--swanlab_mode", choices=SWANLAB_MODES, help=f"default: {OFFLINE}")
    boards.add_argument("--swanlab_project", default=SwanLabOptions.project)
    boards.add_argument("--swanlab_workspace")
    boards.add_argument("--swanlab_run_name", help="default: the name of --output_dir")
    boards.add_argument("--swanlab_logdir", type=Path)


def from_flags(options: Any) -> RunOptions:
    """The RunOptions of parsed flags; raises Refusal."""
    if options.eval_steps < 0 or options.early_stopping_steps < 0:
        raise Refusal(USAGE, "--eval_steps and --early_stopping_steps are 0 or more")
    if options.diverged_factor and options.diverged_factor <= 1:
        raise Refusal(USAGE, "--diverged_factor must be over 1", hint="or 0 for never")
    return RunOptions(
        wishes=Wishes(
            pack_tokens=_tokens(options.pack_tokens),
            checkpointing=None if options.checkpointing == AUTO else options.checkpointing,
            compiled=_switch(options.compile),
            captured=_switch(options.cuda_graphs),
            attention=None if options.attention == AUTO else options.attention,
        ),
        begin=options.begin,
        init_adapter=options.init_adapter,
        eval_steps=options.eval_steps,
        patience=options.early_stopping_steps,
        min_improvement_percent=options.min_improvement_percent,
        diverged_factor=options.diverged_factor,
        auto_bits=options.quantization_bit == AUTO,
        tensorboard=_is_true(options.tensorboard),
        swanlab=_swanlab(options) if _is_true(options.use_swanlab) else None,
        bar=not _is_true(options.disable_tqdm),
    )


def _swanlab(options: Any) -> SwanLabOptions:
    """How SwanLab is to be used. Whether it can be is asked where the run is, not here.

    A job's flags are checked on a machine that has none of the run's packages.
    """
    return SwanLabOptions(
        mode=options.swanlab_mode or OFFLINE,
        project=options.swanlab_project,
        workspace=options.swanlab_workspace,
        run_name=options.swanlab_run_name,
        logdir=options.swanlab_logdir,
    )


def _is_true(text: str) -> bool:
    return text.lower() in {"true", "1", "yes", "on"}


def _switch(text: str) -> bool | None:
    return None if text == AUTO else text == "true"


def _tokens(text: str) -> int | None:
    if text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 64:
        raise Refusal(USAGE, f"--pack_tokens {text}", hint="64 or more, or auto")
    return int(text)
