"""`python -m trainer plan`: measure the plans that may be best on this card, keep the best one.

The measuring is done in a process of its own, so that a card that runs out of memory in earnest
takes nothing else with it, and all its memory is free again afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import model as models, plan as plans
from trainer.exits import FINISHED, USAGE, Refusal
from trainer.packing import tokens_in
from trainer.planning import estimated_plans, plan_key
from trainer.progress import Status, say
from trainer.session import prepare
from trainer.stop import StopRequests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.session import Session

TRIED_AT_MOST = 3
WARM_STEPS = 1
TIMED_STEPS = 3
TIMEOUT_S = 900.0


def run_plan(argv: Sequence[str]) -> int:
    """FINISHED once the best plan for `train` with these flags is known, told and kept.

    `--json`: one JSON document on stdout, nothing else. Raises Refusal.
    """
    arguments = [argument for argument in argv if argument != "--json"]
    began_s = time.monotonic()
    command = [sys.executable, "-m", "trainer.probe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    tried = [facts for facts in found if facts.get("s_per_step")]
    if not tried:
        where = "the probe"
        raise Refusal(USAGE, done.stderr.strip()[-2000:] or "it measured nothing", where=where)
    best = min(tried, key=lambda facts: facts["run_s"])
    probe_s = round(time.monotonic() - began_s, 1)
    facts = {name: best[name] for name in ("s_per_step", "peak_gib", "arrange_s", "run_s")}
    plans.remember(best["key"], plans.from_json(best["plan"]), {**facts, "probe_s": probe_s})
    document = {"schema": "costguard.plan/1", "chosen": best, "tried": found, "probe_s": probe_s}
    if "--json" in argv:
        say(json.dumps(document, ensure_ascii=False))
    else:
        say("\n".join(_as_text(document)))
    return FINISHED


def _as_text(document: dict[str, Any]) -> list[str]:
    best = document["chosen"]
    lines = [f"{best['device']}: tried, for {best['steps']} steps of {best['samples_per_step']}:"]
    for facts in document["tried"]:
        text = plans.from_json(facts["plan"]).text()
        if facts["s_per_step"] is None:
            lines.append(f"  {text}: out of memory")
            continue
        lines.append(
            f"  {text}: {facts['s_per_step']:.3f} s a step, {facts['peak_gib']:.1f} GiB, "
            f"{facts['arrange_s']:.0f} s to get ready: {facts['run_s']:.0f} s in all (measured)"
        )
    lines += [
        f"chosen: {plans.from_json(best['plan']).text()}, which takes least in all",
        f"  4 bits or bf16: {best['bits']}",
        f"  kept in {plans.cache_path()} for this card, driver and model; `train` uses it",
        f"  the probe took {document['probe_s']:.0f} s",
    ]
    return lines


def measure(argv: Sequence[str]) -> None:
    """Print a JSON line for each plan tried."""
    from trainer.flags import parse_train

    config = parse_train(argv)
    with tempfile.TemporaryDirectory() as directory, StopRequests() as stop:
        place = Path(directory)
        config = dataclasses.replace(config, output_dir=place)
        session = prepare(config, stop, Status(place), arranged=False)
        for plan in estimated_plans(session)[:TRIED_AT_MOST]:
            say(json.dumps(_try(session, plan)))


def _try(session: Session, plan: plans.Plan) -> dict[str, Any]:
    """What a few steps of `plan` took; `s_per_step` is None where the card has not the memory."""
    facts: dict[str, Any] = {
        "plan": plan.as_json(), "key": plan_key(session), "device": session.execution["device"],
        "steps": session.total_steps, "samples_per_step": session.config.samples_per_step,
        "bits": _bits(session), "s_per_step": None,
    }  # fmt: skip
    steps = range(min(WARM_STEPS + TIMED_STEPS, session.total_steps))
    samples = [session.samples_of(step) for step in steps]
    began_s = time.monotonic()
    try:
        if not session.arranged(plan):
            return facts
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
        return facts
    timed = samples[min(WARM_STEPS, len(samples) - 1) :]
    s_per_step = (time.monotonic() - began_s) / len(timed)
    return {
        **facts,
        "s_per_step": s_per_step,
        "tokens_per_s": sum(map(tokens_in, timed)) / len(timed) / s_per_step,
        "arrange_s": arrange_s,
        "peak_gib": models.peak_memory_gib(session.device),
        "run_s": arrange_s + s_per_step * session.total_steps,
    }


def _bits(session: Session) -> str:
    """Why the weights are in 4 bits or not: that changes what is learnt, so the user says it."""
    if session.config.quantization_bit is not None:
        return "4 bits, as --quantization_bit says"
    return "bf16, since --quantization_bit is not given (4 needs 9 GiB less on a 7B model)"


if __name__ == "__main__":
    try:
        measure(sys.argv[1:])
    except Refusal as refusal:
        sys.stderr.write(refusal.text() + "\n")
        sys.exit(refusal.exit_code)
