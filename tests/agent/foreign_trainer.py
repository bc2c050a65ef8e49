"""Files as transformers' Trainer writes them, without torch: for the rule that judges them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path


def safetensors(path: Path, size: int = 640) -> None:
    """One tensor of so many bytes."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        }
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"w" * size)


def torch_file(path: Path, size: int = 4096) -> None:
    """What torch.save writes: an uncompressed zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
        archive.writestr("archive/data/0", b"\1" * size)


def checkpoint(output: Path, step: int) -> Path:
    """A whole `checkpoint-N`, the trainer's state last."""
    directory = output / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    safetensors(directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text("{}")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch_file(directory / name)
    state = {"global_step": step, "max_steps": 9, "log_history": []}
    (directory / "trainer_state.json").write_text(json.dumps(state))
    return directory


def result(output: Path, step: int) -> None:
    """What LLaMA-Factory leaves in the output directory when it is through, in its order."""
    output.mkdir(parents=True, exist_ok=True)
    safetensors(output / "adapter_model.safetensors", size=1000 + step)
    for name in ("adapter_config.json", "tokenizer.json", "all_results.json", "README.md"):
        (output / name).write_text("{}")
    (output / "training_loss.png").write_bytes(b"png")
    (output / "trainer_state.json").write_text(json.dumps({"global_step": step}))


if __name__ == "__main__":
    OUTPUT = Path("output")
    OUTPUT.mkdir()
    with (OUTPUT / "trainer_log.jsonl").open("w", encoding="utf-8") as log:
        for step in (10, 20, 30, 40, 50, 60):
            line = {"current_steps": step, "total_steps": 60, "loss": 2.0, "lr": 1e-4}
            log.write(json.dumps(line) + "\n")
        log.write(json.dumps({"current_steps": 60, "total_steps": 60, "epoch": 3.0}) + "\n")
    checkpoint(OUTPUT, 40)
    result(OUTPUT, 60)
