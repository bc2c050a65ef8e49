"""`python -m trainer check | make-model | plan | train | bench`."""

from __future__ import annotations

import sys

from trainer.exits import FINISHED, USAGE, Refusal
from trainer.progress import say, warn

USAGE_TEXT = """\
python -m trainer COMMAND

  check FILE [--json] [--cutoff_len N]   judge a data set; needs no torch
  make-model --out DIR --data FILE       make a small Qwen2 model and tokenizer, offline
  plan  --model_name_or_path M --dataset D --output_dir O [...]   measure how to run it on this card
  train --model_name_or_path M --dataset D --output_dir O [...]   a QLoRA run
  bench [--work W] [--json]              this trainer and its peers, side by side on one card

COMMAND --help names its options."""


def main(argv: list[str]) -> int:
    """The exit code of one command."""
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    try:
        if command == "check":
            from trainer.check import run_check

            return run_check(rest)
        if command == "make-model":
            from trainer.make_model import run_make_model

            return run_make_model(rest)
        if command == "train":
            from trainer.flags import parse_train
            from trainer.train import run

            return run(parse_train(rest))
        if command == "plan":
            from trainer.probe import run_plan

            return run_plan(rest)
        if command == "bench":
            from trainer.bench.run import run_bench

            return run_bench(rest)
    except Refusal as refusal:
        warn(refusal.text())
        return refusal.exit_code
    if command in {"-h", "--help"}:
        say(USAGE_TEXT)
        return FINISHED
    warn(f"there is no command {command!r}\n{USAGE_TEXT}" if command else USAGE_TEXT)
    return USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
