"""The user's unit: 1,000 samples, 3 epochs, from the start of the process to a verified adapter.

Ours is the command itself, once with empty caches and once with those of the first. A peer that
does not end within its limit is stopped, and what was left is reckoned at its own median step; that
is said in its facts.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer.bench.stages import Piece, environment_of, logged, run_trainer
from trainer.bench.turns import write_whole
from trainer.bench.work import LORA_RANK, STEPS, VARIANTS, WORKS, text_rows
from trainer.exits import FINISHED
from trainer.publish import read_directory

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.bench.work import Variant

EPOCHS = 3
LIMIT_S = 500.0
PEER_TRAINS_S = 380.0
"""Then a peer is told to stop; loading before and saving after have the rest of the limit."""


def pieces(
    out: Path, model: Path, rows: int, packages: Path | None, *, on_card: bool
) -> list[Piece]:
    """Ours, cold and warm and with judgements; on a card the peers of the 8-sample row too.

    `packages`: those that LLaMA-Factory alone needs.
    """
    data = out / "unit.json"
    if not data.exists():
        out.mkdir(parents=True, exist_ok=True)
        data.write_text(json.dumps(text_rows(WORKS[STEPS].samples()[:rows])), encoding="utf-8")
    runs: dict[str, list[str]] = {
        "unit: ours, caches cold": [],
        "unit: ours, caches warm": [],
        "unit: ours, caches warm, 100 held out and judged": [
            "--val_size", str(min(100, rows // 2)),
        ],
    }  # fmt: skip
    ours = [
        Piece(name, LIMIT_S, partial(_ours, model, data, more, cold=name.endswith("cold")))
        for name, more in runs.items()
    ]
    peers = [v for v in VARIANTS.values() if v.work == STEPS and v.tool != "ours"]
    if not on_card:
        return ours
    return ours + [
        Piece(f"unit: {v.name}", LIMIT_S, partial(_peer, v, model, packages)) for v in peers
    ]


def _ours(model: Path, data: Path, more: list[str], folder: Path, *, cold: bool) -> dict[str, Any]:
    """The article's command. Its plan is estimated, not measured: nothing is kept from before."""
    output, caches = folder / "output", folder.parent / "unit-caches"
    for old in (output, caches) if cold else (output,):
        shutil.rmtree(old, ignore_errors=True)
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "XDG_CACHE_HOME": str(caches / "plans"),
    }
    words = [
        "train", "--model_name_or_path", str(model), "--dataset", str(data),
        "--output_dir", str(output), "--template", "qwen", "--default_system", "assistant",
        "--lora_rank", str(LORA_RANK), "--quantization_bit", "4", "--double_quantization",
        "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "8",
        "--lr_scheduler_type", "cosine", "--learning_rate", "2e-4",
        "--num_train_epochs", str(EPOCHS), "--logging_steps", "10", "--save_steps", "50", *more,
    ]  # fmt: skip
    began_s = time.monotonic()
    code, _seconds = run_trainer(words, folder / "log", environment, limit_s=LIMIT_S)
    if code != FINISHED:
        raise AssertionError(f"it ended with {code}: see {folder / 'log'}")
    read_directory(output / "adapter")  # checks the size and sha256 of each file
    seconds = time.monotonic() - began_s
    last = logged(output)[-1]
    return {
        "seconds": seconds, "reckoned": False, "steps": last["total_steps"],
        "tokens_per_s_of_training": last["session_tokens_per_s"],
        "training": last["elapsed_time"], "peak_memory_gib": last["peak_memory_gib"],
    }  # fmt: skip


def _peer(variant: Variant, model: Path, packages: Path | None, folder: Path) -> dict[str, Any]:
    for old in ("output", "data", "adapter", "steps.json"):
        path = folder / old
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "trainer.bench.worker", variant.name, str(model), str(folder),
               "whole"]  # fmt: skip
    began_s = time.monotonic()
    with (folder / "log").open("wb") as log:
        try:
            done = subprocess.run(
                command, stdout=log, stderr=log, check=False, timeout=LIMIT_S,
                env=environment_of(variant.tool, packages),
            )  # fmt: skip
        except subprocess.TimeoutExpired as slow:
            raise AssertionError(f"not done within {LIMIT_S:.0f} s: see {folder / 'log'}") from slow
    adapter = next(folder.rglob("adapter_model.safetensors"), None)
    if done.returncode != FINISHED or adapter is None:
        raise AssertionError(f"it ended with {done.returncode}: see {folder / 'log'}")
    from safetensors import safe_open

    with safe_open(adapter, "pt") as file:
        list(file.keys())
    return reckoned(time.monotonic() - began_s, json.loads((folder / "steps.json").read_bytes()))


def reckoned(seconds: float, steps: dict[str, Any]) -> dict[str, Any]:
    """A peer's facts: its own seconds where it ended, else with its median step for what was left.

    The first step compiles and allocates, and is not of the median.
    """
    left = steps["total"] - len(steps["seconds"])
    median_s = statistics.median(steps["seconds"][1:])
    return {
        "seconds": seconds + left * median_s, "reckoned": left > 0, "steps": steps["total"],
        "steps_done": len(steps["seconds"]), "s_per_step": median_s,
        "peak_memory_gib": steps["reserved"] / 2**30,
    }  # fmt: skip


class Whole:
    """In a peer's process, in the place of Turns: all steps, or as many as the time allows."""

    def __init__(self, folder: Path, samples: int, samples_per_step: int) -> None:
        self.folder = folder
        self.total_steps = -(-samples // samples_per_step) * EPOCHS
        self._began_s = self._last_s = time.monotonic()
        self._seconds: list[float] = []

    def step_done(self) -> None:
        """Note the step."""
        import torch

        torch.cuda.synchronize()
        now_s = time.monotonic()
        self._seconds.append(now_s - self._last_s)
        self._last_s = now_s
        facts = {"total": self.total_steps, "seconds": self._seconds,
                 "reserved": torch.cuda.max_memory_reserved()}  # fmt: skip
        write_whole(self.folder / "steps.json", facts)

    def enough(self) -> bool:
        """Whether the peer is to stop here and save."""
        return time.monotonic() - self._began_s > PEER_TRAINS_S

    def trained(self, trainer: Any) -> None:
        """Save what was trained, as its user would."""
        trainer.save_model(str(self.folder / "adapter"))
