"""The command line of `export`: LLaMA-Factory's names where it has them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.exits import USAGE, Refusal
from trainer.flags import Parser, add_model_flags, at_least, check_template, wanted_model
from trainer.progress import warn

if TYPE_CHECKING:
    import argparse

PASSED_OVER = {
    "export_device": "each tensor passes through the CPU: no paid GPU is needed",
    "export_quantization_dataset": "NF4 needs no samples to calibrate on",
    "export_quantization_nsamples": "NF4 needs no samples to calibrate on",
    "export_quantization_maxlen": "NF4 needs no samples to calibrate on",
    "trust_remote_code": "code that comes with a model is never run",
}


def parse_export(argv: list[str]) -> argparse.Namespace:
    """The checked options, `wanted` (the model) among them; raises Refusal."""
    options = _parser().parse(argv)
    check_template(options.template)
    options.wanted = wanted_model(options)
    if options.export_quantization_bit not in {None, 4}:
        hint = "use 4 (bitsandbytes NF4), or leave it out for bf16"
        what = f"--export_quantization_bit {options.export_quantization_bit}"
        raise Refusal(USAGE, what, hint=hint)
    if options.quantization_bit not in {None, 4}:
        raise Refusal(USAGE, f"--quantization_bit {options.quantization_bit}", hint="use 4")
    for name in ("kl_limit", "val_size"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise Refusal(USAGE, f"--{name} {value} is not a number from 0 on")
    for name, why in PASSED_OVER.items():
        if getattr(options, name) is not None:
            warn(f"--{name} is passed over: {why}")
    return options


def _parser() -> Parser:
    parser = Parser(prog="python -m trainer export", allow_abbrev=False)
    what = parser.add_argument_group("what to export")
    add_model_flags(what)
    text = "an adapter, or a run's --output_dir"
    what.add_argument("--adapter_name_or_path", required=True, help=text)
    what.add_argument("--export_dir", type=Path, required=True, help="must not be there yet")
    text = "merged into the base, or the adapter alone"
    what.add_argument("--export_type", default="merged", choices=("merged", "adapter"), help=text)
    text = "4: bitsandbytes NF4; without it, bf16"
    what.add_argument("--export_quantization_bit", type=int, help=text)
    text = "auto: whichever is nearer to what was trained"
    choices = ("auto", "original", "dequantized")
    what.add_argument("--merge_base", default="auto", choices=choices, help=text)
    what.add_argument("--export_size", type=at_least(1), default=5, help="GB a file")
    what.add_argument("--template", default="qwen", help="qwen")
    what.add_argument("--finetuning_type", default="lora", choices=("lora",))
    text = "4: it was trained on NF4; else as its run wrote down"
    what.add_argument("--quantization_bit", type=int, help=text)
    check = parser.add_argument_group("compared with what was trained")
    check.add_argument("--dataset", help="a data file, or a name in --dataset_dir")
    check.add_argument("--dataset_dir", type=Path, default=Path("data"))
    text = "as the run had it: compared is on what it held out"
    check.add_argument("--val_size", type=float, default=0.0, help=text)
    check.add_argument("--seed", type=at_least(0), default=42, help="as the run had it")
    check.add_argument("--eval_samples", type=at_least(1), default=8)
    check.add_argument("--eval_tokens", type=at_least(8), default=512, help="longest sample")
    text = "nats a token; farther from what was trained, and it is not kept"
    check.add_argument("--kl_limit", type=float, help=text)
    passed_over = parser.add_argument_group("passed over, with a notice")
    for name in PASSED_OVER:
        passed_over.add_argument(f"--{name}", nargs="?", const="true")
    return parser
