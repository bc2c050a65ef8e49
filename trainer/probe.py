"""`python -m trainer plan`: measure the plans that may be best on this card, keep the best one.

The measuring is done in a process of its own, so that a card that runs out of memory in earnest
takes nothing else with it, and all its memory is free again afterwards. Under `--quantization_bit
auto` there are two, one with the weights in 4 bits and one without.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import model as models, plan as plans
from trainer.bits import needed_text
from trainer.exits import FINISHED, SAVED_ON_REQUEST, USAGE, Refusal
from trainer.flags import parse_train
from trainer.interview import columns
from trainer.lang import told
from trainer.packing import tokens_in
from trainer.planning import FLAGS, estimated_plans, plan_key, sources
from trainer.progress import Status, say, tell, warn
from trainer.session import prepare
from trainer.stop import StopRequests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.session import Session

TRIED_AT_MOST = 3
WARM_STEPS = 1
TIMED_STEPS = 3
TIMEOUT_S = 900.0
BITS = ("4", "none")
KEPT = ("s_per_step", "peak_gib", "load_s", "arrange_s", "run_s", "bits")
SHOWN = {
    "pack_tokens": "tokens of a pass, at most", "checkpointing": "kept for the backward pass",
    "compiled": "layers compiled", "captured": "passes captured", "attention": "attention",
}  # fmt: skip


def run_plan(argv: Sequence[str]) -> int:
    """FINISHED once the best plan for `train` with these flags is known, told and kept.

    `--json`: one JSON document on stdout, nothing else. Raises Refusal.
    """
    arguments = [argument for argument in argv if argument != "--json"]
    config = parse_train(arguments)  # wrong flags, and --help, are answered here
    began_s = time.monotonic()
    tried: list[dict[str, Any]] = []
    why_none = ""
    both = config.run.auto_bits and not models.is_quantised(config)
    for more in [["--quantization_bit", bits] for bits in BITS] if both else [[]]:
        code, out, error = _probe([*arguments, *more])
        if code == SAVED_ON_REQUEST:
            warn("stopped: nothing was kept")
            return SAVED_ON_REQUEST
        tried += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        why_none = error.strip()[-2000:] or why_none
    usable = [facts for facts in tried if facts["s_per_step"]]
    if not usable:
        raise Refusal(USAGE, why_none or "it measured nothing", where="the probe")
    best = min(usable, key=lambda facts: facts["run_s"])
    probe_s = round(time.monotonic() - began_s, 1)
    _keep(usable, probe_s, auto=both)
    document = {
        "schema": "costguard.plan/1", "chosen": best, "tried": tried, "probe_s": probe_s,
        "sources": _sources(best, usable, auto=both),
    }  # fmt: skip
    if "--json" in argv:
        say(json.dumps(document, ensure_ascii=False))
    else:
        tell("\n".join(_as_text(document)))
    return FINISHED


def _probe(arguments: list[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the measuring process. A stop request is handed on to it.

    One that outlived its parent would hold the card for a quarter of an hour. The exit code is
    then SAVED_ON_REQUEST. Raises Refusal.
    """
    command = [sys.executable, "-m", "trainer.probe", *arguments]
    stopped: list[int] = []
    started: list[subprocess.Popen[str]] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        for process in started:
            process.terminate()

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as child:
            started.append(child)
            if stopped:
                child.terminate()
            out, error = _answer(child)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return SAVED_ON_REQUEST if stopped else child.returncode, out, error


def _answer(child: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as slow:
        child.kill()
        hint = "fix the plan by hand: --pack_tokens, --checkpointing, --compile"
        what = f"it did not end within {TIMEOUT_S:.0f} s"
        raise Refusal(USAGE, what, where="the probe", hint=hint) from slow


def _keep(usable: list[dict[str, Any]], probe_s: float, *, auto: bool) -> None:
    """Remember the best plan for each number of bits, and under `auto` which of them is better."""
    for key in ("key", "any_bits_key") if auto else ("key",):
        for name in dict.fromkeys(facts[key] for facts in usable):
            best = min((f for f in usable if f[key] == name), key=lambda facts: facts["run_s"])
            facts = {part: best[part] for part in KEPT}
            plans.remember(name, plans.from_json(best["plan"]), {**facts, "probe_s": probe_s})


def _sources(best: dict[str, Any], usable: list[dict[str, Any]], *, auto: bool) -> dict[str, str]:
    """Where each part of the chosen plan comes from: a flag, the measuring, or what was tried."""
    told: dict[str, str] = dict(best["sources"])
    for part in FLAGS:
        if len({facts["plan"][part] for facts in usable}) > 1:
            told[part] = f"measured: the quickest of the {len(usable)} tried"
    if auto:
        both = len({facts["bits"] for facts in usable}) > 1
        told["bits"] = "measured: the quicker of both" if both else "the other did not fit"
    return told


def _as_text(document: dict[str, Any]) -> list[str]:
    best, sources = document["chosen"], document["sources"]
    lines = [f"{best['device']}: tried, for {best['steps']} steps of {best['samples_per_step']}:"]
    for facts in document["tried"]:
        text = f"{_weights(facts)}, {plans.from_json(facts['plan']).text()}"
        if facts["s_per_step"] is None:
            lines.append(f"  {text}: out of memory")
            continue
        lines.append(
            f"  {text}: {facts['s_per_step']:.3f} s a step, {facts['peak_gib']:.1f} GiB, "
            f"{facts['load_s']:.0f} s to load, {facts['arrange_s']:.0f} s to get ready: "
            f"{facts['run_s']:.0f} s in all (measured)"
        )
    values = {True: "yes", False: "no", "none": "all", "full": "inputs"}
    plan = {part: str(values.get(value, value)) for part, value in best["plan"].items()}
    rows = [(text, plan[part], sources[part]) for part, text in SHOWN.items()]
    rows.append(("weights", _weights(best), sources["bits"]))
    step = "--per_device_train_batch_size x --gradient_accumulation_steps, never changed"
    rows.append(("samples of a step", str(best["samples_per_step"]), step))
    lines.append("chosen, since it takes least in all:")
    lines += [
        f"  {_filled(text, 28)}{_filled(value, 10)}{told(source)}" for text, value, source in rows
    ]
    lines += [
        f"by the memory model, {best['needed']}",
        f"kept in {plans.cache_path()} for this card, driver and model; `train` uses it",
        f"the probe took {document['probe_s']:.0f} s",
    ]
    return lines


def _filled(text: str, width: int) -> str:
    """`text` in the person's language, filled up to so many columns."""
    shown = told(text)
    return shown + " " * (width - columns(shown))


def _weights(facts: dict[str, Any]) -> str:
    return "NF4" if facts["bits"] else str(facts["dtype"])


def measure(argv: Sequence[str]) -> None:
    """Print a JSON line for each plan tried."""
    began_s = time.monotonic()
    config = parse_train(argv)
    with tempfile.TemporaryDirectory() as directory, StopRequests() as stop:
        place = Path(directory)
        config = dataclasses.replace(config, output_dir=place)
        session = prepare(config, stop, Status(place), arranged=False)
        load_s = time.monotonic() - began_s
        for plan in estimated_plans(session)[:TRIED_AT_MOST]:
            say(json.dumps({**_facts(session, plan), **_try(session, plan, load_s)}))


def _facts(session: Session, plan: plans.Plan) -> dict[str, Any]:
    config, execution = session.config, session.execution
    return {
        "plan": plan.as_json(), "device": execution["device"],
        "key": plan_key(config, execution),
        "any_bits_key": plan_key(config, execution, any_bits=True),
        "steps": session.total_steps, "samples_per_step": config.samples_per_step,
        "bits": config.quantization_bit,
        "dtype": session.semantics["compute_dtype"].removeprefix("torch."),
        "sources": {**sources(session), "bits": session.bits_from},
        "needed": needed_text(config),
    }  # fmt: skip


def _try(session: Session, plan: plans.Plan, load_s: float) -> dict[str, Any]:
    """What a few steps of `plan` took; `s_per_step` is None where the card has not the memory."""
    steps = range(min(WARM_STEPS + TIMED_STEPS, session.total_steps))
    samples = [session.samples_of(step) for step in steps]
    models.forget_peak(session.device)
    began_s = time.monotonic()
    try:
        if not session.arranged(plan):
            return {"s_per_step": None}
        arrange_s = time.monotonic() - began_s
        for step, chosen in enumerate(samples):
            if step == min(WARM_STEPS, len(samples) - 1):
                began_s = time.monotonic()
            float(session.passes.gradients(chosen))  # waits for the card
            session.passes.zero_gradients()
    except Exception as error:
        if not models.is_out_of_memory(error):
            raise
        session.passes.forget()
        return {"s_per_step": None}
    timed = samples[min(WARM_STEPS, len(samples) - 1) :]
    s_per_step = (time.monotonic() - began_s) / len(timed)
    return {
        "s_per_step": s_per_step,
        "tokens_per_s": sum(map(tokens_in, timed)) / len(timed) / s_per_step,
        "load_s": load_s,
        "arrange_s": arrange_s,
        "peak_gib": models.peak_memory_gib(session.device),
        "run_s": load_s + arrange_s + s_per_step * session.total_steps,
    }


if __name__ == "__main__":
    try:
        measure(sys.argv[1:])
    except Refusal as refusal:
        sys.stderr.write(refusal.text() + "\n")
        sys.exit(refusal.exit_code)
