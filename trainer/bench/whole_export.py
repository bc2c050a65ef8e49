"""`python -m trainer.bench.whole_export OUT`: what an export of a whole 7B model takes, on a CPU.

Qwen2.5-7B's shape with random weights in bf16 and a random adapter on all its matrices, exported by
the command itself in a process of its own, whose time and largest memory the system tells. Each
export is a stage: its facts stay in OUT, so a run that was cut off goes on with the next one. An
export's files are removed once its facts are kept: 15 GB each. The distances are those of random
weights, and say nothing about a trained model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from trainer.bench import shape
from trainer.bench.turns import write_whole
from trainer.data import read_dataset
from trainer.exits import CRASHED, FINISHED
from trainer.progress import say

EXAMPLE = Path(__file__).parents[1] / "examples" / "kefu" / "train.jsonl"
EXPORTS = {
    "original": ["--merge_base", "original"],
    "dequantized": ["--merge_base", "dequantized"],
    "nf4": ["--merge_base", "dequantized", "--export_quantization_bit", "4"],
}
RANK = 8
DEVIATION = 0.01
ANY_DISTANCE = "1000"


def measure(out: Path, config: dict[str, Any], what: list[str]) -> dict[str, dict[str, Any]]:
    """The facts of each export in `what`, those in `out` already as they are."""
    import torch

    model, adapter = out / "model", out / "adapter"
    out.mkdir(parents=True, exist_ok=True)
    cpu = torch.device("cpu")
    shape.make(model, read_dataset(EXAMPLE).samples, config, cpu, quantised=False)
    make_adapter(adapter, config)
    for name in what:
        place = out / f"export-{name}.json"
        if not place.exists():
            write_whole(place, _export(out, model, adapter, name))
    return {name: json.loads((out / f"export-{name}.json").read_bytes()) for name in what}


def make_adapter(directory: Path, config: dict[str, Any]) -> None:
    """A LoRA adapter with random weights on every matrix, as peft saves one."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(shape.SEED)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    widths = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (out_width, in_width) in widths.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            for part, size in (("A", (RANK, in_width)), ("B", (out_width, RANK))):
                weight = torch.randn(size, generator=generator) * DEVIATION
                tensors[f"{stem}.lora_{part}.weight"] = weight
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    document = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "task_type": "CAUSAL_LM",
        "target_modules": sorted({name.split(".")[1] for name in widths}),
    }  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(document), encoding="utf-8")


def _export(out: Path, model: Path, adapter: Path, name: str) -> dict[str, Any]:
    target, log = out / name, out / f"export-{name}.log"
    command = [
        sys.executable, "-m", "trainer", "export", "--model_name_or_path", str(model),
        "--adapter_name_or_path", str(adapter), "--quantization_bit", "4",
        "--export_dir", str(target), "--kl_limit", ANY_DISTANCE, *EXPORTS[name],
    ]  # fmt: skip
    began_s = time.monotonic()
    with log.open("wb") as stream:
        descriptor = stream.fileno()
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, 1), (os.POSIX_SPAWN_DUP2, descriptor, 2)]
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        _pid, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - began_s
    code = os.waitstatus_to_exitcode(status)
    if code != FINISHED:
        raise AssertionError(f"export {name} ended with {code}: see {log}")
    manifest = json.loads((target / "manifest.json").read_bytes())
    size = sum(entry["size"] for entry in manifest["files"])
    shutil.rmtree(target)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "export": name, "wall_s": round(wall_s, 1), "cpu_s": round(usage.ru_utime, 1),
        "peak_rss_gib": round(usage.ru_maxrss * unit / 2**30, 2),
        "written_gb": round(size / 1e9, 2),
        "kl": manifest["kl"], "cores": os.cpu_count(), "machine": platform.machine(),
    }  # fmt: skip


def main(argv: list[str]) -> int:
    """FINISHED once all was measured; prints a JSON line for each export."""
    parser = argparse.ArgumentParser(prog="python -m trainer.bench.whole_export")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--what", action="append", choices=[*EXPORTS], help="default: all")
    options = parser.parse_args(argv)
    config = {**shape.QWEN_7B, "num_hidden_layers": options.layers}
    for facts in measure(options.out, config, options.what or [*EXPORTS]).values():
        say(json.dumps({"layers": options.layers, **facts}))
    return FINISHED


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except AssertionError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(CRASHED)
