"""Resume and judgements on the card at hand: what they change of a run, against chance.

Five runs of one small model on real text, as plans for the card have it: two that nothing happens
to, one that is judged on held-out samples as it goes, one that is stopped and one that is killed,
both started again. On a CPU all end with the same bytes. On a card two plain runs may differ, and
the others may be twice as far from the first as the second is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.bench.stages import Piece, facts_of, logged, run_trainer
from trainer.data import read_dataset
from trainer.disk import Disk
from trainer.exits import FINISHED, SAVED_ON_REQUEST
from trainer.make_model import build
from trainer.publish import publish_directory

if TYPE_CHECKING:
    import subprocess

EXAMPLE = Path(__file__).parents[1] / "examples" / "kefu" / "train.jsonl"
SIZES = {"hidden": 256, "layers": 2, "intermediate": 704, "vocab_size": 512,
         "max_positions": 2048, "seed": 0}  # fmt: skip
TINY = {**SIZES, "hidden": 64, "layers": 1, "intermediate": 64, "max_positions": 512}
LIMIT_S = 180.0
HELD_OUT = 20
PLAIN, AGAIN = "steady: nothing happens", "steady: nothing happens, again"
OTHERS = {
    "steady: judged as it goes": "--eval_steps 7",
    "steady: stopped and started again": "stop 4",
    "steady: killed and started again": "kill 4",
    "steady: stopped late and started again": "stop 1.5",
}  # `stop` and `kill`: at the total steps / so many
SPREADS_ALLOWED = 2.0


def pieces(out: Path, *, tiny: bool, on_card: bool) -> list[Piece]:
    """The five runs."""
    model = out / "small-model"
    if not model.exists():
        out.mkdir(parents=True, exist_ok=True)
        files = build(TINY if tiny else SIZES, read_dataset(EXAMPLE).samples)
        publish_directory(Disk(), model, files, {"kind": "model"})
    steps = 24 if tiny else 200
    how = {PLAIN: "", AGAIN: "", **OTHERS}
    return [
        Piece(name, LIMIT_S, partial(_run, model, steps, what, on_card=on_card))
        for name, what in how.items()
    ]


def verdict(out: Path, runs: list[Piece]) -> dict[str, Any] | None:
    """How far the runs are apart, and whether that is within what is allowed; None before all."""
    found = facts_of(out, runs)
    if len(found) < len(runs):
        return None
    plain = found[PLAIN]
    apart = {name: _apart(facts["losses"], plain["losses"]) for name, facts in found.items()}
    same = {name: facts["sha256"] == plain["sha256"] for name, facts in found.items()}
    allowed = SPREADS_ALLOWED * apart[AGAIN]
    return {
        "device": plain["device"], "spread": apart[AGAIN], "apart": apart, "same_bytes": same,
        "passes": all(apart[name] <= allowed for name in OTHERS),
    }  # fmt: skip


def _apart(losses: list[float], plain: list[float]) -> float:
    return max(abs(a - b) / b for a, b in zip(losses, plain, strict=True))


def _run(model: Path, steps: int, what: str, folder: Path, *, on_card: bool) -> dict[str, Any]:
    """A run and its facts; `what`: more flags, `stop` or `kill` and where, or nothing."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    card = ["--compile", "true", "--cuda_graphs", "true", "--checkpointing", "selective"]
    words = [
        "train", "--model_name_or_path", str(model), "--dataset", str(EXAMPLE),
        "--output_dir", str(output), "--quantization_bit", "4", "--lora_rank", "16",
        "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1",
        "--learning_rate", "5e-3", "--warmup_steps", "5", "--max_steps", str(steps),
        "--logging_steps", "1", "--save_steps", "5", "--val_size", str(HELD_OUT), "--threads", "1",
        "--pack_tokens", "512", *(card if on_card else []),
        *(what.split() if what.startswith("--") else ["--eval_steps", str(steps)]),
    ]  # fmt: skip
    log, environment = folder / "log", {**os.environ, "XDG_CACHE_HOME": str(folder / "plans")}
    went_on_from = None  # the step of the checkpoint that an interrupted run resumed from
    if what.startswith(("stop", "kill")):
        how, part = what.split()
        step = int(steps / float(part))
        watch = partial(_interrupt, output / "status.json", step, kill=how == "kill")
        code, _s = run_trainer(words, log, environment, limit_s=LIMIT_S, watch=watch)
        if code not in {SAVED_ON_REQUEST, -9}:
            raise AssertionError(f"it was to be interrupted, and ended with {code}: see {log}")
        went_on_from = _newest(output)[0]
    code, seconds = run_trainer(words, log, environment, limit_s=LIMIT_S)
    if code != FINISHED:
        raise AssertionError(f"it ended with {code}: see {log}")
    state = json.loads((_newest(output)[1] / "trainer_state.json").read_bytes())
    adapter = (output / "adapter" / "adapter_model.safetensors").read_bytes()
    return {
        "losses": [line["loss"] for line in logged(output)], "seconds": seconds,
        "sha256": hashlib.sha256(adapter).hexdigest(), "device": state["execution"]["device"],
        "plan": state["execution"]["plan"], "went_on_from": went_on_from,
    }  # fmt: skip


def _newest(output: Path) -> tuple[int, Path]:
    """The step of the newest checkpoint, and where it is."""
    return max((int(path.name.split("-")[1]), path) for path in output.glob("checkpoint-*"))


def _interrupt(status: Path, step: int, process: subprocess.Popen[bytes], *, kill: bool) -> None:
    """Stop or kill the process once it has gone beyond `step`; asked more than once it ends now."""
    told = json.loads(status.read_bytes()) if status.exists() else {"step": 0}
    if told["step"] >= step and told.get("exit_code") is None and not getattr(process, "asked", 0):
        process.kill() if kill else process.terminate()
        process.asked = 1  # type: ignore[attr-defined]
