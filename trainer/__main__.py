"""`python -m trainer COMMAND`: judge data, mask, plan, train, talk to the result, export it."""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from typing import NoReturn

from trainer.exits import FINISHED, INTERRUPTED, USAGE, Refusal
from trainer.progress import tell, warn

COMMANDS = {
    "check": ("trainer.check", "run_check"),
    "mask": ("trainer.mask", "run_mask"),
    "make-model": ("trainer.make_model", "run_make_model"),
    "plan": ("trainer.probe", "run_plan"),
    "train": ("trainer.flags", "run_train"),
    "bench": ("trainer.bench.run", "run_bench"),
    "chat": ("trainer.chat", "run_chat"),
    "export": ("trainer.export", "run_export"),
}
"""What each command calls. Imported only when asked for, so that `check` needs no torch."""

USAGE_TEXT = """\
python -m trainer COMMAND

  check FILE [--json] [--cutoff_len N]   judge a data set; needs no torch
  mask FILE --out FILE                   replace personal data; needs no torch
  make-model --out DIR --data FILE       make a small Qwen2 model and tokenizer, offline
  plan  --model_name_or_path M --dataset D --output_dir O [...]   measure how to run it on this card
  train --model_name_or_path M --dataset D --output_dir O [...]   a QLoRA run
  train RECIPE.yaml                      the same, from a recipe of LLaMA-Factory
  chat --model_name_or_path M --adapter_name_or_path A [--interview FILE]   ask the result
  export --model_name_or_path M --adapter_name_or_path A --export_dir D   merge it, bf16 or NF4
  bench [--work W] [--json]              this trainer and its peers, side by side on one card

COMMAND --help names its options."""


def main(argv: list[str]) -> int:
    """The exit code of one command."""
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    if command in COMMANDS:
        module, function = COMMANDS[command]
        try:
            code: int = getattr(import_module(module), function)(rest)
        except Refusal as refusal:
            warn(refusal.text())
            return refusal.exit_code
        except KeyboardInterrupt:
            warn("interrupted")
            return INTERRUPTED
        return code
    if command in {"-h", "--help"}:
        tell(USAGE_TEXT)
        return FINISHED
    if command:
        warn(f"there is no command {command!r}")
    warn(USAGE_TEXT)
    return USAGE


def leave(code: int) -> NoReturn:
    """End the process with `code`, at once where a thread of some library would not let it.

    Python waits for such threads for ever, and a card that waits costs as much as one that trains.
    """
    main_thread = threading.main_thread()
    staying = [t.name for t in threading.enumerate() if not t.daemon and t is not main_thread]
    if staying:
        warn(f"ended without waiting for: {', '.join(staying)}")
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
