"""`plan` on the card at hand: what it chooses for the article's run, measuring 4 bits and bf16."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer.bench import shape
from trainer.bench.stages import Piece
from trainer.data import read_dataset
from trainer.exits import FINISHED

if TYPE_CHECKING:
    from pathlib import Path

MODEL_LIMIT_S = 300.0
PLAN_LIMIT_S = 540.0


def pieces(out: Path, config: dict[str, Any], example: Path, device: Any) -> list[Piece]:
    """The model in bf16, then the command: a model in 4 bits would leave it no choice."""
    model = out / "model-bf16"
    return [
        Piece("plan: the model", MODEL_LIMIT_S, partial(_make, model, config, example, device)),
        Piece("plan: measured", PLAN_LIMIT_S, partial(_plan, model, example)),
    ]


def _make(
    model: Path, config: dict[str, Any], example: Path, device: Any, _folder: Path
) -> dict[str, Any]:
    began_s = time.monotonic()
    shape.make(model, read_dataset(example).samples, config, device, quantised=False)
    return {"seconds": time.monotonic() - began_s}


def _plan(model: Path, example: Path, folder: Path) -> dict[str, Any]:
    command = [
        sys.executable, "-W", "ignore", "-m", "trainer", "plan", "--json",
        "--model_name_or_path", str(model), "--dataset", str(example),
        "--output_dir", str(folder / "output"), "--quantization_bit", "auto",
        "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "8",
        "--num_train_epochs", "3",
    ]  # fmt: skip
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "plans")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=PLAN_LIMIT_S
    )
    if done.returncode != FINISHED:
        raise AssertionError(f"it ended with {done.returncode}: {done.stderr[-1500:]}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document
