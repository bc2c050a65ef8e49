"""The command line of `train`: LLaMA-Factory's flag names, so that its commands work here.

A flag that is not known is refused with the nearest one that is. A flag of LLaMA-Factory that
cannot matter here is passed over with a notice that names it.
"""

from __future__ import annotations

import argparse
import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trainer import options as run_options
from trainer.config import Config
from trainer.data import CONTROL_TOKENS, find_dataset
from trainer.exits import USAGE, Refusal
from trainer.schedule import SCHEDULERS
from trainer.template import QWEN_DEFAULT_SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QWEN1_TARGETS = {"c_attn": "q_proj,k_proj,v_proj", "c_proj": "o_proj,down_proj",
                 "w1": "up_proj", "w2": "gate_proj"}  # fmt: skip
OPTIMIZERS = ("adamw_torch", "paged_adamw_8bit")
PASSED_OVER = {
    "overwrite_cache": "nothing is cached between runs",
    "overwrite_output_dir": "a run goes on from its newest valid checkpoint, none is overwritten",
    "plot_loss": "no picture is drawn; the numbers are in trainer_log.jsonl",
    "ddp_timeout": "one card trains, nothing waits for another",
    "preprocessing_num_workers": "tokenising is threaded by itself",
    "dataloader_num_workers": "the samples are in memory",
    "report_to": "the numbers are in trainer_log.jsonl and status.json",
    "trust_remote_code": "code that comes with a model is never run",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal(USAGE, message, hint="python -m trainer train --help names every flag")


def parse_train(argv: Sequence[str]) -> Config:
    """The checked Config of a command line; raises Refusal, exit code USAGE or DATA."""
    options, unknown = _parser().parse_known_args(argv)
    if unknown:
        raise _unknown_flag(unknown[0])
    notices = [
        f"--{name} is passed over: {why}"
        for name, why in PASSED_OVER.items()
        if getattr(options, name) is not None
    ]
    _check_fixed(options)
    _check_ranges(options)
    if options.fp16:
        notices.append("--fp16 runs as bf16 (fp32 on a CPU): fp16 overflows to NaN on Qwen2.5")
    if options.save_total_limit < 2:
        notices.append("--save_total_limit: the last 2 are kept, since one may be damaged later")
    return Config(
        model_name_or_path=_model(options.model_name_or_path),
        dataset=find_dataset(options.dataset, options.dataset_dir),
        output_dir=options.output_dir,
        lora_target=_lora_target(options.lora_target, notices),
        gradient_checkpointing=False if options.disable_gradient_checkpointing else None,
        run=run_options.from_flags(options),
        notices=tuple(notices),
        **{name: getattr(options, name) for name in _SAME_NAMES},
    )


_SAME_NAMES = (
    "default_system", "lora_rank", "lora_alpha", "lora_dropout", "quantization_bit",
    "double_quantization", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps",
    "max_samples", "cutoff_len", "max_grad_norm", "optim", "seed", "logging_steps", "save_steps",
    "save_interval_s", "save_total_limit", "resume", "threads", "val_size",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m trainer train", allow_abbrev=False)
    what = parser.add_argument_group("what to train")
    what.add_argument("--model_name_or_path", required=True, help="a directory, or a hub's name")
    what.add_argument("--dataset", required=True, help="a .jsonl file, or a name in --dataset_dir")
    what.add_argument("--dataset_dir", type=Path, default=Path("data"))
    what.add_argument("--output_dir", type=Path, required=True, help="checkpoints, adapter, logs")
    what.add_argument("--template", default="qwen", help="qwen")
    what.add_argument("--default_system", default=QWEN_DEFAULT_SYSTEM,
                      help="the system prompt of rows without one")  # fmt: skip
    what.add_argument("--max_samples", type=_at_least(1), help="the first N of one fixed shuffle")
    what.add_argument("--val_size", type=float, default=0.0,
                      help="held out of training: a share below 1, or a number")  # fmt: skip
    what.add_argument("--cutoff_len", type=_at_least(8), default=1024, help="tokens a sample")
    _add_switch(what, "--do_train", "what this command does anyway")
    what.add_argument("--stage", default="sft", help="sft")

    how = parser.add_argument_group("LoRA and precision")
    how.add_argument("--finetuning_type", default="lora", help="lora")
    how.add_argument("--lora_target", default="all", help="all, or module names with commas")
    how.add_argument("--lora_rank", type=_at_least(1), default=8)
    how.add_argument("--lora_alpha", type=_at_least(1), default=16)
    how.add_argument("--lora_dropout", type=float, default=0.0)
    how.add_argument("--quantization_bit", type=int, help="4: NF4; without it, bf16 LoRA")
    _add_switch(how, "--double_quantization", "quantise the quantisation constants", default=True)
    _add_switch(how, "--bf16", "what is done anyway where the card can")
    _add_switch(how, "--fp16", "runs as bf16")

    steps = parser.add_argument_group("steps")
    steps.add_argument("--per_device_train_batch_size", type=_at_least(1), default=1)
    steps.add_argument("--gradient_accumulation_steps", type=_at_least(1), default=8)
    _add_switch(steps, "--disable_gradient_checkpointing", "faster, more memory (GPU only)")
    steps.add_argument("--learning_rate", type=float, default=2e-4)
    steps.add_argument("--lr_scheduler_type", default="cosine", choices=SCHEDULERS)
    steps.add_argument("--warmup_steps", type=_at_least(0), default=0)
    steps.add_argument("--num_train_epochs", type=float, default=3.0)
    steps.add_argument("--max_steps", type=int, default=-1, help="wins over --num_train_epochs")
    steps.add_argument("--max_grad_norm", type=float, default=1.0)
    steps.add_argument("--optim", default="adamw_torch", choices=OPTIMIZERS)
    steps.add_argument("--seed", type=_at_least(0), default=42)
    steps.add_argument("--threads", type=_at_least(0), default=0, help="0: the cores, 2 at most")

    saves = parser.add_argument_group("logs and saves")
    saves.add_argument("--logging_steps", type=_at_least(1), default=10)
    saves.add_argument("--save_steps", type=_at_least(1), default=500)
    saves.add_argument("--save_interval_s", type=float, default=180.0, help="0: by steps alone")
    saves.add_argument("--save_total_limit", type=_at_least(1), default=3)
    saves.add_argument("--resume", default="auto", choices=("auto", "never"))

    run_options.add_flags(parser)
    passed_over = parser.add_argument_group("passed over, with a notice")
    for name in PASSED_OVER:
        passed_over.add_argument(f"--{name}", nargs="?", const="true")
    return parser


def _add_switch(group: Any, flag: str, text: str, *, default: bool = False) -> None:
    group.add_argument(flag, nargs="?", const=True, default=default, type=_truth, help=text)


def _truth(text: str) -> bool:
    if text.lower() in {"true", "1", "yes"}:
        return True
    if text.lower() in {"false", "0", "no"}:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        return value

    parse.__name__ = "int"  # argparse names the type in its message
    return parse


def _unknown_flag(flag: str) -> Refusal:
    name = flag.split("=", 1)[0]
    known = [option for action in _parser()._actions for option in action.option_strings]  # noqa: SLF001 - argparse has no public list
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "python -m trainer train --help names every flag"
    return Refusal(USAGE, f"unknown flag {name}", hint=hint)


def _check_fixed(options: argparse.Namespace) -> None:
    """Refuse the choices that are not offered, each with its reason."""
    if options.stage != "sft":
        raise Refusal(USAGE, f"--stage {options.stage} is not offered", hint="use --stage sft")
    if options.finetuning_type != "lora":
        raise Refusal(
            USAGE,
            f"--finetuning_type {options.finetuning_type} is not offered",
            hint="use lora: full training of a 7B model needs about 120 GB of GPU memory "
            "(16 bytes a weight: weights, gradients, Adam), LoRA fits one 24 GB card",
        )
    if options.template != "qwen":
        raise Refusal(USAGE, f"--template {options.template} is not offered", hint="use qwen")
    if options.quantization_bit not in {None, 4}:
        hint = "use 4 (NF4), or leave it out for bf16 LoRA"
        raise Refusal(USAGE, f"--quantization_bit {options.quantization_bit}", hint=hint)
    for token in CONTROL_TOKENS:
        if token in options.default_system:
            what = f"--default_system holds the control token {token}"
            raise Refusal(USAGE, what, hint="take it out: the template writes it")


def _check_ranges(options: argparse.Namespace) -> None:
    bounds = {
        "learning_rate": (0.0, 1.0),
        "lora_dropout": (0.0, 0.99),
        "num_train_epochs": (1e-6, 1e6),
        "max_grad_norm": (1e-9, 1e9),
        "save_interval_s": (0.0, 1e9),
    }
    for name, (least, most) in bounds.items():
        value = getattr(options, name)
        if not (math.isfinite(value) and least <= value <= most):
            raise Refusal(USAGE, f"--{name} {value} is not between {least:g} and {most:g}")
    if options.max_steps == 0 or options.max_steps < -1:
        raise Refusal(USAGE, f"--max_steps {options.max_steps}", hint="1 or more; -1: by epochs")


def _model(name: str) -> str:
    """`name` if it is a model's directory or may be a hub's name; raises Refusal."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            hint = "give the directory that holds config.json and the weights"
            raise Refusal(USAGE, "no config.json in it", where=name, hint=hint)
        return name
    if name.startswith(("/", "./", "../", "~")) or name.count("/") != 1:
        hint = "give a model's directory, or a hub's name such as Qwen/Qwen2.5-7B-Instruct"
        raise Refusal(USAGE, "there is no such model directory", where=name, hint=hint)
    return name


def _lora_target(text: str, notices: list[str]) -> str:
    """The module names to adapt; Qwen-1's become Qwen2.5's, which has no others."""
    targets: list[str] = []
    for name in text.split(","):
        renamed = QWEN1_TARGETS.get(name.strip())
        if renamed:
            notices.append(f"--lora_target {name}: Qwen-1's name; Qwen2.5 has {renamed}, adapted")
        targets += (renamed or name.strip()).split(",")
    return ",".join(sorted(set(targets)))
