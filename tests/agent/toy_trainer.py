"""A trainer without a model: it keeps the files-and-signals contract, and can break it.

`python3 toy_trainer.py '{"steps": 5, ...}'`; see DEFAULTS for what it can be told.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "steps": 5,
    "step_s": 0.02,
    "first_step": 0,
    "phase": None,  # written to status.json before the first step
    "checkpoint_at": [],
    "adapter": True,
    "on_term": "save",  # or "ignore"
    "exit": 0,
    "nan_at": None,
    "fork": False,  # leaves a child in the group, and one that fled to a session of its own
    "print": [],  # lines for standard output
    "repeat": 1,  # how often they are printed
    "rubbish": False,  # binary bytes and one line of 10 MiB
    "burn_s": 0.0,  # CPU time used by a child that is gone afterwards
    "gates": {},  # after this step (a text), waits for this file
    "gate_each": None,  # after every step, waits for the file of its number in this directory
    "burn_gpu": False,  # multiplies matrices on the card in a child, half of every 20 s
    "hold_s": 0.0,  # stays this long after the last step
    "signals_to": None,  # a file that gets one line for each SIGTERM
}
OUTPUT = Path("output")


BURN_GPU = """
import time
try:
    import torch
    card = torch.device("cuda") if torch.cuda.is_available() else None
except ImportError:
    card = None
if card is not None:
    a = torch.randn(4096, 4096, device=card, dtype=torch.bfloat16)
    while True:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            for _ in range(20):
                b = a @ a
            torch.cuda.synchronize()
        time.sleep(10)
"""


def write_artifact(name: str, step: int) -> None:
    """Writes a directory the way a trainer should: hidden, manifest last, renamed into place."""
    hidden = OUTPUT / f".{name}.tmp"
    (hidden / "deep er").mkdir(parents=True)
    entries = []
    for path in ("adapter_model.safetensors", "deep er/state'$(x).bin"):
        content = f"{name} {step} {path}".encode() * 50
        (hidden / path).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries.append({"path": path, "size": len(content), "sha256": digest})
    (hidden / "manifest.json").write_text(json.dumps({"step": step, "files": entries}))
    target = OUTPUT / name
    if target.exists():
        target.rename(OUTPUT / f".old-{name}-{time.time_ns()}")
    hidden.rename(target)


def leave_children() -> None:
    """One sleeper in this group, one in a session of its own with its parent gone."""
    sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
    inside = subprocess.Popen(sleep)
    flee = (
        "import subprocess as s; "
        f"print(s.Popen({sleep!r}, start_new_session=True, stdout=s.DEVNULL).pid)"
    )
    fled = subprocess.run([sys.executable, "-c", flee], stdout=subprocess.PIPE, check=True)
    (OUTPUT / "children").write_text(f"{inside.pid} {fled.stdout.decode().strip()}")


def main() -> int:
    """Trains nothing, step by step."""
    order = {**DEFAULTS, **json.loads(sys.argv[1])}
    stop = []

    def on_term(_number: int, _frame: object) -> None:
        if order["signals_to"]:
            with Path(order["signals_to"]).open("a", encoding="utf-8") as file:
                file.write("TERM\n")
        if order["on_term"] == "save":
            stop.append(1)

    signal.signal(signal.SIGTERM, on_term)
    OUTPUT.mkdir(exist_ok=True)
    if order["phase"]:
        (OUTPUT / "status.json").write_text(json.dumps({"phase": order["phase"], "pid": 1}))
    for line in order["print"] * order["repeat"]:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    if order["rubbish"]:
        os.write(1, bytes(range(256)) + b"\nafter the bytes\n" + b"x" * (10 << 20) + b"\nlast\n")
    if order["fork"]:
        leave_children()
    if order["burn_s"]:
        burn = f"import time\nwhile time.process_time() < {order['burn_s']}: pass"
        subprocess.run([sys.executable, "-c", burn], check=True)
    if order["burn_gpu"]:
        subprocess.Popen([sys.executable, "-c", BURN_GPU])
    return train(order, stop)


def train(order: dict[str, Any], stop: list[int]) -> int:
    """The steps, the checkpoints, the end."""
    step = order["first_step"]
    with (OUTPUT / "trainer_log.jsonl").open("a", encoding="utf-8") as log:
        while step < order["steps"] and not stop:
            step += 1
            loss = "NaN" if step == order["nan_at"] else f"{2.0 / step:.4f}"
            log.write(
                f'{{"current_steps": {step}, "total_steps": {order["steps"]}, "loss": {loss}, '
                f'"lr": 1e-4, "epoch": 0.5, "percentage": 1.0, "elapsed_time": "0:00:01", '
                f'"remaining_time": "0:00:02", "throughput": "123.4", '
                f'"written_at": {time.time()}}}\n'
            )
            log.flush()
            if step in order["checkpoint_at"]:
                write_artifact(f"checkpoint-{step}", step)
            time.sleep(order["step_s"])
            gate = order["gates"].get(str(step))
            if order["gate_each"]:
                gate = f"{order['gate_each']}/{step}"
            while gate and not Path(gate).exists() and not stop:
                time.sleep(0.01)
    if stop:
        write_artifact(f"checkpoint-{step}", step)
        return 75
    if order["adapter"]:
        write_artifact("adapter", step)
    deadline = time.monotonic() + order["hold_s"]
    while time.monotonic() < deadline and not stop:
        time.sleep(0.02)
    return int(order["exit"])


if __name__ == "__main__":
    sys.exit(main())
