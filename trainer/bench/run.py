"""`python -m trainer bench`: the rows of the table, one after another, each variant in turns.

Beside the rows there are stages: `unit` (1,000 samples x 3 epochs, from start to adapter), `plan`,
and `steady` (resume and judgements against chance). All of it goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.bench import planned, shape, steady, unit
from trainer.bench.stages import environment_of, facts_of, run_pieces
from trainer.bench.work import GIB, SAMPLES, VARIANTS, WORKS, Variant, Work
from trainer.bench.worker import ROUND_STEPS, ROUNDS, WARM_STEPS
from trainer.data import read_dataset
from trainer.exits import FINISHED, USAGE, Refusal
from trainer.memory import Shape
from trainer.progress import say, warn

if TYPE_CHECKING:
    from trainer.bench.stages import Piece

STAGES = ("rows", "unit", "plan", "steady")
TINY_ROWS = 24
EXAMPLE = Path(__file__).parents[1] / "examples" / "kefu" / "train.jsonl"
QWEN_7B = Shape(hidden=3584, inner=18944, layers=28, words=152064, keys=512, rank=8, quantised=True)
POLL_S = 0.1


def run_bench(argv: list[str]) -> int:
    """FINISHED once all that is wanted has been measured; prints it, as JSON with --json.

    What is in `--out` already is not measured again, so a run that was cut off goes on. A stage
    whose time is up ends with SAVED_ON_REQUEST: the same command goes on.
    """
    parser = argparse.ArgumentParser(prog="python -m trainer bench", allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--model", type=Path, help="made there if it is not; default: in --out")
    parser.add_argument("--work", action="append", choices=[*WORKS], help="default: all")
    parser.add_argument("--variant", action="append", help="default: all of the work")
    parser.add_argument("--peers", type=Path, help="packages that LLaMA-Factory alone needs")
    parser.add_argument("--warm_timeout_s", type=float, default=240.0)
    parser.add_argument("--stage", choices=STAGES, default="rows")
    parser.add_argument("--budget_s", type=float, default=570.0, help="of one call, for a stage")
    parser.add_argument("--tiny", action="store_true", help="see that a stage works, on a CPU too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        import torch
    except ImportError as error:
        raise Refusal(USAGE, "bench needs torch", hint="pip install costguard[trainer]") from error
    out: Path = options.out
    if options.stage != "rows":
        return _run_stage(options, torch)
    if torch.cuda.is_available():
        model = options.model or out / "model"
        _make_model(model)
        limit = _limit_tokens_per_s(torch)
        out.mkdir(parents=True, exist_ok=True)
        (out / "limit.json").write_text(json.dumps(limit), encoding="utf-8")
        for name in options.work or [*WORKS]:
            _measure(WORKS[name], model, out, options)
    elif not (out / "limit.json").exists():
        raise Refusal(USAGE, "bench needs a CUDA card", hint="or --out with what was measured")
    rows = table(out)
    if options.json:
        say(json.dumps(rows, ensure_ascii=False))
    else:
        for row in rows:
            say("  ".join(f"{value}" for value in row.values()))
    return FINISHED


def _run_stage(options: argparse.Namespace, torch: Any) -> int:
    """The exit code of one stage; its facts are printed as JSON, whatever is there of them."""
    on_card = torch.cuda.is_available()
    out, tiny = options.out, options.tiny
    if not on_card and not tiny:
        hint = "or --tiny, to see that the stage works"
        raise Refusal(USAGE, f"--stage {options.stage} needs a CUDA card", hint=hint)
    device = torch.device("cuda" if on_card else "cpu")
    config = {**shape.QWEN_7B, **(shape.TINY if tiny else {})}
    pieces: list[Piece]
    if options.stage == "steady":
        pieces = steady.pieces(out, tiny=tiny, on_card=on_card)
    elif options.stage == "plan":
        pieces = planned.pieces(out, config, EXAMPLE, device)
    else:
        model = options.model or out / "model"
        shape.make(model, read_dataset(EXAMPLE).samples, config, device)
        rows = TINY_ROWS if tiny else SAMPLES
        pieces = unit.pieces(out, model, rows, options.peers, on_card=on_card and not tiny)
    wanted = [p for p in pieces if not options.variant or p.name in options.variant]
    code = run_pieces(out, wanted, options.budget_s)
    found: dict[str, Any] = {"stage": options.stage, "facts": facts_of(out, pieces)}
    if options.stage == "steady":
        found["verdict"] = steady.verdict(out, pieces)
    say(json.dumps(found, ensure_ascii=False))
    return code


def table(out: Path) -> list[dict[str, Any]]:
    """The measured variants in `out`, as `bench --json` prints them, and what more is known."""
    limit = json.loads((out / "limit.json").read_bytes())["tokens_per_s"]
    rows = []
    for variant in VARIANTS.values():
        folder = _folder(out, variant)
        if not (folder / f"round-{ROUNDS - 1}.json").exists():
            continue
        rounds = [json.loads((folder / f"round-{n}.json").read_bytes()) for n in range(ROUNDS)]
        tokens, samples = _per_step(variant, folder)
        speeds = [
            sum(tokens[n * ROUND_STEPS : (n + 1) * ROUND_STEPS]) / sum(facts["seconds"])
            for n, facts in enumerate(rounds)
        ]
        speed = statistics.median(speeds)
        mean_tokens = sum(tokens) / len(tokens)
        profile = folder / "profile.json"
        busy = json.loads(profile.read_bytes())["busy_ms_per_step"] if profile.exists() else None
        step_ms = 1000 * statistics.median(s for facts in rounds for s in facts["seconds"])
        rows.append(
            {
                "work": variant.work,
                "variant": variant.name,
                "tokens_per_s": round(speed, 1),
                "samples_per_s": round(speed / mean_tokens * samples, 2),
                "peak_reserved_gib": round(max(f["reserved"] for f in rounds) / GIB, 2),
                "share_of_limit_percent": round(100 * speed / limit, 1),
                "spread_percent": round(100 * (max(speeds) - min(speeds)) / speed, 1),
                "step_ms": round(step_ms, 1),
                "gpu_busy_ms": None if busy is None else round(busy, 1),
            }
        )
    return rows


def _per_step(variant: Variant, folder: Path) -> tuple[list[float], float]:
    """(real tokens of each timed step, samples of a step)."""
    steps = ROUNDS * ROUND_STEPS
    told = folder / "tokens.json"
    facts = json.loads(told.read_bytes()) if told.exists() else {}
    if "tokens_per_step" in facts:
        return [facts["tokens_per_step"]] * steps, facts["samples_per_step"]
    work = WORKS[variant.work]
    lengths = [len(sample.token_ids) for sample in work.samples()]
    size = work.samples_per_step
    counts = [
        float(sum(lengths[(step * size + i) % len(lengths)] for i in range(size)))
        for step in range(WARM_STEPS, WARM_STEPS + steps)
    ]
    return counts, float(size)


def _measure(work: Work, model: Path, out: Path, options: argparse.Namespace) -> None:
    """Load all variants of the row at once, then let each take its rounds in turn."""
    wanted = [
        v for v in VARIANTS.values()
        if v.work == work.name and (not options.variant or v.name in options.variant)
        and not (_folder(out, v) / f"round-{ROUNDS - 1}.json").exists()
    ]  # fmt: skip
    workers: dict[str, tuple[Path, Any]] = {}
    for variant in wanted:
        folder = _folder(out, variant)
        for old in folder.glob("*") if folder.exists() else ():
            if old.is_file():
                old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        environment = environment_of(variant.tool, options.peers)
        command = [
            sys.executable,
            "-m",
            "trainer.bench.worker",
            variant.name,
            str(model),
            str(folder),
        ]
        log = (folder / "log").open("w", encoding="utf-8")
        workers[variant.name] = (
            folder,
            subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment),
        )
    try:
        deadline_s = time.monotonic() + options.warm_timeout_s
        ready = [n for n in workers if _answered(*workers[n], "warm.json", deadline_s)]
        for turn in range(ROUNDS + 1):
            answer = "profile.json" if turn == ROUNDS else f"round-{turn}.json"
            for name in list(ready):
                folder, process = workers[name]
                (folder / f"go-{turn}").touch()
                if not _answered(folder, process, answer, time.monotonic() + 120):
                    ready.remove(name)
    finally:
        for _, process in workers.values():
            process.kill()
            process.wait()


def _answered(folder: Path, process: Any, name: str, deadline_s: float) -> bool:
    """Whether the worker wrote `name` in time; what went wrong is said."""
    while not (folder / name).exists():
        if process.poll() is not None or time.monotonic() > deadline_s:
            tail = (folder / "log").read_text(encoding="utf-8", errors="replace")[-1500:]
            warn(f"{folder.name}: no {name} (exit {process.returncode})\n{tail}")
            return False
        time.sleep(POLL_S)
    return True


def _folder(out: Path, variant: Variant) -> Path:
    return out / "".join(c if c.isalnum() else "-" for c in variant.name)


def _make_model(model: Path) -> None:
    import torch

    shape.make(model, read_dataset(EXAMPLE).samples, shape.QWEN_7B, torch.device("cuda"))
    torch.cuda.empty_cache()


def _limit_tokens_per_s(torch: Any) -> dict[str, float]:
    """The card's limit: a large bf16 product's rate / the floating-point operations of a token.

    Operations: 4 for each weight of the frozen products and the output layer (2 forward, 2 for
    the gradient of its input), nothing computed twice.
    """
    size = 8192
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        left @ right
    begin.record()
    for _ in range(10):
        left @ right
    end.record()
    end.synchronize()
    rate = 10 * 2 * size**3 / (begin.elapsed_time(end) / 1000)
    return {"flop_per_s": rate, "tokens_per_s": rate / QWEN_7B.train_flop_per_token()}
