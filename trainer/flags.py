"""The command line of `train`: LLaMA-Factory's flag names, so that its commands work here.

A flag that is not known is refused with the nearest one that is. A flag of LLaMA-Factory that
cannot matter here is passed over with a notice that names it; one that runs otherwise than it says
has a notice too, and is refused under `--strict`. A recipe in YAML stands for its flags.
"""

from __future__ import annotations

import argparse
import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trainer import options as run_options
from trainer.config import Config
from trainer.data import CONTROL_TOKENS, find
from trainer.download import Wanted
from trainer.exits import USAGE, Refusal
from trainer.flag_table import (
    FALSE_WORDS,
    FINETUNING_TYPES,
    FIXED,
    OPTIMIZERS,
    OPTIMIZERS_LIKE,
    PASSED_OVER,
    QWEN1_TARGETS,
    REFUSED,
    TEMPLATES,
)
from trainer.parsers import ToldParser
from trainer.recipe import expand
from trainer.schedule import SCHEDULERS
from trainer.template import QWEN_DEFAULT_SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOURCES = ("path", "modelscope", "huggingface")


class Parser(ToldParser):
    """An argument parser whose errors are Refusals."""

    def error(self, message: str) -> NoReturn:
        """Raise Refusal instead of ending the process."""
        raise Refusal(USAGE, message, hint=f"{self.prog} --help names every flag")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options; an unknown flag is refused with the nearest one that is known."""
        options, unknown = self.parse_known_args(argv)
        if unknown:
            raise self._unknown(unknown[0])
        return options

    def _unknown(self, word: str) -> Refusal:
        if not word.startswith("-"):
            hint = "flags begin with --; a recipe (.yaml) stands first"
            return Refusal(USAGE, f"{word!r} belongs to no flag", hint=hint)
        name = word.split("=", 1)[0]
        hidden = {*REFUSED, *FIXED}
        known = [
            option
            for action in self._actions
            for option in action.option_strings
            if option.removeprefix("--") not in hidden
        ]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help names every flag"
        return Refusal(USAGE, f"unknown flag {name}", hint=hint)


def run_train(argv: list[str]) -> int:
    """The exit code of `train`. A wrong flag is refused before anything heavy is imported."""
    config = parse_train(argv)
    from trainer.train import run

    return run(config)


def parse_train(argv: Sequence[str]) -> Config:
    """The checked Config of a command line; raises Refusal, exit code USAGE or DATA."""
    expanded = expand(argv)
    try:
        return _parse(expanded.argv)
    except Refusal as refusal:
        raise expanded.placed(refusal) from None


def _parse(argv: Sequence[str]) -> Config:
    options = _parser().parse(argv)
    passed_over = [
        f"--{name} is passed over: {why}"
        for name, why in PASSED_OVER.items()
        if getattr(options, name) is not None
    ]
    changed: list[str] = []
    _check_unoffered(options)
    _check_fixed(options)
    _check_ranges(options)
    if options.fp16:
        changed.append("--fp16 runs as bf16 (fp32 on a CPU): fp16 overflows to NaN on Qwen2.5")
    if options.pure_bf16:
        changed.append("--pure_bf16 runs as bf16 with LoRA weights in fp32: Adam needs them")
    if options.save_total_limit < 2:
        changed.append("--save_total_limit: the last 2 are kept, since one may be damaged later")
    run = run_options.from_flags(options)
    if run.swanlab and options.swanlab_mode is None:
        changed.append("--use_swanlab sends nothing: `swanlab sync` does, from where your key is")
    optim = _optimizer(options.optim, changed)
    lora_target = _lora_target(options.lora_target, changed)
    if options.strict and changed:
        hint = "put right what it names, or leave --strict out"
        raise Refusal(USAGE, f"{changed[0]} (refused under --strict)", hint=hint)
    found = find(options.dataset, options.dataset_dir)
    return Config(
        model_name_or_path=_model(options.model_name_or_path),
        dataset=found.path,
        row_format=found.row_format,
        output_dir=options.output_dir,
        lora_target=lora_target,
        lora_alpha=options.lora_alpha or 2 * options.lora_rank,
        optim=optim,
        quantization_bit=4 if options.quantization_bit == 4 else None,
        gradient_checkpointing=False if options.disable_gradient_checkpointing else None,
        run=run,
        notices=(*passed_over, *changed),
        **{name: getattr(options, name) for name in _SAME_NAMES},
    )


_SAME_NAMES = (
    "default_system", "lora_rank", "lora_dropout", "double_quantization",
    "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "num_train_epochs",
    "max_steps", "max_samples", "cutoff_len", "max_bad_percent", "val_size", "max_grad_norm",
    "seed", "logging_steps", "save_steps", "save_interval_s", "save_total_limit", "resume",
    "threads", "model_source", "model_revision", "cache_dir",
)  # fmt: skip


def _parser() -> Parser:
    parser = Parser(
        prog="python -m trainer train",
        usage="%(prog)s [RECIPE.yaml [flag=value …]] [--flag value …]",
        allow_abbrev=False,
    )
    _add_what(parser)
    _add_how(parser)
    _add_steps(parser)
    saves = parser.add_argument_group("logs and saves")
    saves.add_argument("--logging_steps", type=at_least(1), default=10)
    saves.add_argument("--save_steps", type=at_least(1), default=500)
    saves.add_argument("--save_interval_s", type=float, default=180.0, help="0: by steps alone")
    saves.add_argument("--save_total_limit", type=at_least(1), default=3)
    saves.add_argument("--resume", default="auto", choices=("auto", "never"))
    add_switch(saves, "--strict", "refuse what would run otherwise than its flag says")
    run_options.add_flags(parser)
    passed_over = parser.add_argument_group("passed over, with a notice")
    for name in PASSED_OVER:
        passed_over.add_argument(f"--{name}", nargs="?", const="true")
    for name in (*FIXED, *REFUSED):
        parser.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
    return parser


def _add_what(parser: Parser) -> None:
    what = parser.add_argument_group("what to train")
    add_model_flags(what)
    what.add_argument("--dataset", required=True, help="a data file, or a name in --dataset_dir")
    what.add_argument("--dataset_dir", type=Path, default=Path("data"))
    what.add_argument("--output_dir", type=Path, required=True, help="checkpoints, adapter, logs")
    what.add_argument("--template", default="qwen", help="qwen")
    what.add_argument("--default_system", default=QWEN_DEFAULT_SYSTEM,
                      help="the system prompt of rows without one")  # fmt: skip
    what.add_argument("--max_samples", type=at_least(1), help="the first N of one fixed shuffle")
    what.add_argument("--cutoff_len", type=at_least(8), default=1024, help="tokens a sample")
    what.add_argument("--max_bad_percent", type=float, default=0.0,
                      help="bad rows up to this share are left out, named")  # fmt: skip
    what.add_argument("--val_size", type=float, default=0.0,
                      help="held out of training: a share below 1, or a number")  # fmt: skip
    add_switch(what, "--do_train", "what this command does anyway")
    what.add_argument("--stage", default="sft", help="sft")


def _add_how(parser: Parser) -> None:
    how = parser.add_argument_group("LoRA and precision")
    how.add_argument("--finetuning_type", default="lora", help="lora")
    how.add_argument("--lora_target", default="all", help="all, or module names with commas")
    how.add_argument("--lora_rank", type=at_least(1), default=8)
    how.add_argument("--lora_alpha", type=at_least(1), help="twice the rank, unless given")
    how.add_argument("--lora_dropout", type=float, default=0.0)
    how.add_argument("--quantization_bit", type=_bits, metavar="4|auto|none",
                     help="4: NF4; none: bf16 LoRA, as without it; auto: by the card")  # fmt: skip
    add_switch(how, "--double_quantization", "quantise the quantisation constants", default=True)
    add_switch(how, "--bf16", "what is done anyway where the card can")
    add_switch(how, "--fp16", "runs as bf16")
    add_switch(how, "--pure_bf16", "runs as bf16")


def _add_steps(parser: Parser) -> None:
    steps = parser.add_argument_group("steps")
    steps.add_argument("--per_device_train_batch_size", type=at_least(1), default=1)
    steps.add_argument("--gradient_accumulation_steps", type=at_least(1), default=8)
    add_switch(steps, "--disable_gradient_checkpointing", "faster, more memory (GPU only)")
    steps.add_argument("--learning_rate", type=float, default=2e-4)
    steps.add_argument("--lr_scheduler_type", default="cosine", choices=SCHEDULERS)
    steps.add_argument("--warmup_steps", type=at_least(0), default=0)
    steps.add_argument("--warmup_ratio", type=float, default=0.0, help="of all steps")
    steps.add_argument("--num_train_epochs", type=float, default=3.0)
    steps.add_argument("--max_steps", type=int, default=-1, help="wins over --num_train_epochs")
    steps.add_argument("--max_grad_norm", type=float, default=1.0)
    names = (*OPTIMIZERS, *OPTIMIZERS_LIKE)
    steps.add_argument("--optim", default="adamw_torch", choices=names, metavar="NAME",
                       help=" or ".join(OPTIMIZERS))  # fmt: skip
    steps.add_argument("--seed", type=at_least(0), default=42)
    steps.add_argument("--threads", type=at_least(0), default=0, help="0: the cores, 2 at most")


def add_model_flags(group: Any) -> None:
    """Which model, and where it comes from: for every command that loads one."""
    group.add_argument("--model_name_or_path", required=True,
                       help="a directory, or a hub's name")  # fmt: skip
    group.add_argument("--model_source", choices=SOURCES,
                       help="which hub to ask; without it both, HF_ENDPOINT first")  # fmt: skip
    group.add_argument("--model_revision", help="a branch, tag or commit; the hub's main one")
    group.add_argument("--cache_dir", type=Path, help="where downloaded models are kept")


def wanted_model(options: argparse.Namespace) -> Wanted:
    """The model that `add_model_flags`' flags mean; raises Refusal."""
    name = _model(options.model_name_or_path)
    return Wanted(name, options.model_source, options.model_revision, options.cache_dir)


def add_switch(group: Any, flag: str, text: str, *, default: bool = False) -> None:
    """A flag that may stand alone or have true or false behind it."""
    group.add_argument(flag, nargs="?", const=True, default=default, type=_truth, help=text)


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        return value

    parse.__name__ = "int"  # argparse names the type in its message
    return parse


def _bits(text: str) -> int | str | None:
    if text == run_options.AUTO:
        return text
    return None if text.lower() in FALSE_WORDS else int(text)


def _truth(text: str) -> bool:
    if text.lower() in {"true", "1", "yes", "on"}:
        return True
    if text.lower() in FALSE_WORDS | {"off"}:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _check_unoffered(options: argparse.Namespace) -> None:
    """Refuse what would change the result and is not done here, each with its reason."""
    for name, why in REFUSED.items():
        value = getattr(options, name)
        if value is not None and value.lower() not in FALSE_WORDS:
            raise Refusal(USAGE, f"--{name} {value} is not offered", hint=why)
    for name, (values, why) in FIXED.items():
        value = getattr(options, name)
        if value is not None and value.lower() not in {*(v.lower() for v in values), *FALSE_WORDS}:
            hint = f"{why}: use {values[0]}, or leave it out" if values else f"{why}: leave it out"
            raise Refusal(USAGE, f"--{name} {value} is not offered", hint=hint)


def _check_fixed(options: argparse.Namespace) -> None:
    """Refuse the choices that are not offered, each with its reason."""
    if options.stage != "sft":
        raise Refusal(USAGE, f"--stage {options.stage} is not offered", hint="use --stage sft")
    if options.finetuning_type != "lora":
        hint = FINETUNING_TYPES.get(options.finetuning_type, "use lora")
        what = f"--finetuning_type {options.finetuning_type} is not offered"
        raise Refusal(USAGE, what, hint=hint)
    check_template(options.template)
    if options.quantization_bit not in {None, 4, run_options.AUTO}:
        hint = "use 4 (NF4), auto (as suits the card), or leave it out for bf16 LoRA"
        raise Refusal(USAGE, f"--quantization_bit {options.quantization_bit}", hint=hint)
    check_system(options.default_system)


def check_template(name: str) -> None:
    """Return if `name` means ChatML as Qwen2.5 has it; raises Refusal."""
    if name not in TEMPLATES:
        raise Refusal(USAGE, f"--template {name} is not offered", hint="use qwen")


def check_system(text: str) -> None:
    """Return if a system prompt holds none of the template's own tokens; raises Refusal."""
    for token in CONTROL_TOKENS:
        if token in text:
            what = f"--default_system holds the control token {token}"
            raise Refusal(USAGE, what, hint="take it out: the template writes it")


def _check_ranges(options: argparse.Namespace) -> None:
    bounds = {
        "learning_rate": (0.0, 1.0),
        "lora_dropout": (0.0, 0.99),
        "num_train_epochs": (1e-6, 1e6),
        "max_grad_norm": (1e-9, 1e9),
        "save_interval_s": (0.0, 1e9),
        "warmup_ratio": (0.0, 1.0),
        "max_bad_percent": (0.0, 100.0),
        "val_size": (0.0, 1e9),
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


def _optimizer(name: str, changed: list[str]) -> str:
    meant, differs = OPTIMIZERS_LIKE.get(name, (name, False))
    if differs:
        changed.append(f"--optim {name} runs as {meant}")
    return meant


def _lora_target(text: str, changed: list[str]) -> str:
    """The module names to adapt; Qwen-1's become Qwen2.5's, which has no others."""
    targets: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        renamed = QWEN1_TARGETS.get(name)
        if renamed:
            told = renamed.replace(",", " ")
            changed.append(f"--lora_target {name} is Qwen-1's name: trained are Qwen2.5's {told}")
        targets += (renamed or name).split(",")
    return ",".join(sorted(set(targets)))
