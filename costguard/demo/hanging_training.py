"""The demo's fault: the real trainer, hung from outside after some steps.

`--hang spin` keeps a core busy without another step, as a hung collective does; `--hang sleep`
waits for something that never comes. Uploaded beside the trainer; it does not import costguard.
"""

from __future__ import annotations

import argparse
import sys
import time

from trainer.flags import parse_train
from trainer.train import run


def main() -> int:
    """Train until the step at which to hang, then never return."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hang", choices=("spin", "sleep"), required=True)
    parser.add_argument("--at-step", type=int, required=True)
    parser.add_argument("--epochs", default="2")
    options = parser.parse_args()
    flags = {
        "model_name_or_path": "model",
        "dataset_dir": "data",
        "dataset": "train",
        "output_dir": "output",
        "quantization_bit": "4",
        "double_quantization": "true",
        "per_device_train_batch_size": "8",
        "gradient_accumulation_steps": "1",
        "learning_rate": "1e-2",
        "num_train_epochs": options.epochs,
        "cutoff_len": "256",
        "logging_steps": "1",
        "save_steps": "5",
    }
    argv = [word for flag, value in flags.items() for word in (f"--{flag}", value)]

    def hang(step: int) -> None:
        while step >= options.at_step:
            if options.hang == "sleep":
                time.sleep(1)

    return run(parse_train(argv), after_step=hang)


if __name__ == "__main__":
    sys.exit(main())
