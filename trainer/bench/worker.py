"""One variant in a process of its own: `python -m trainer.bench.worker NAME MODEL FOLDER [whole]`.

With `whole` all steps of the user's unit, as many as the time allows; else in turns with others.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from trainer.bench.turns import Turns, write_whole
from trainer.bench.unit import Whole
from trainer.bench.work import GIB, VARIANTS, WORKS
from trainer.model import prepare_allocator

ROUNDS = 3
ROUND_STEPS = 7
WARM_STEPS = 3


def run_worker(name: str, model: Path, folder: Path, *, whole: bool = False) -> None:
    """Train `variant` on `model`; `versions.json` in `folder` says with what."""
    began_s = time.monotonic()
    variant = VARIANTS[name]
    work = WORKS[variant.work]
    if variant.tool == "unsloth":
        import unsloth  # type: ignore[import-not-found]  # noqa: F401 - it must be the first import
    if variant.tool == "ours":
        prepare_allocator()
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, work.cap_gib * GIB / total))
    turns: Turns | Whole = Turns(folder, WARM_STEPS, ROUND_STEPS, ROUNDS)
    if whole:
        turns = Whole(folder, len(work.samples()), work.samples_per_step)
    write_whole(
        folder / "versions.json", {"versions": versions(), "imports_s": time.monotonic() - began_s}
    )
    if isinstance(turns, Turns) and variant.tool == "ours":
        from trainer.bench.ours import train

        train(variant, work, model, folder, turns)
    else:
        from trainer.bench import peers

        tools: dict[str, Any] = {
            "hf": peers.train_hf, "unsloth": peers.train_unsloth,
            "llamafactory": peers.train_llamafactory,
        }  # fmt: skip
        tools[variant.tool](variant, work, model, folder, turns)


def versions() -> dict[str, str]:
    """The versions of everything that has a say in the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found = {"card": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    for name in ("torch", "triton", "transformers", "peft", "bitsandbytes", "trl", "unsloth",
                 "liger-kernel", "llamafactory", "accelerate"):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    run_worker(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), whole=sys.argv[4:] == ["whole"])
