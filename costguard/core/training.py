"""From the agent's messages to what the guards look at: one pure fold, message by message.

The daemon folds the journal as it arrives and, after a restart, the journal as it was stored:
both give the same facts.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costguard.core.snapshot import Exit, Step, TrainingFacts, Window

if TYPE_CHECKING:
    from collections.abc import Mapping

STEPS_KEPT = 200
WINDOWS_KEPT = 720  # an hour of 5-second windows: longer than any allowance but a user's own


def fold(facts: TrainingFacts, message: Mapping[str, Any]) -> TrainingFacts:
    """`facts` with one message of the agent taken in; messages it does not know change nothing."""
    handler = _HANDLERS.get(str(message.get("t")))
    at_ms = message.get("boot_ms")
    if not isinstance(at_ms, int):
        return facts
    facts = replace(facts, agent_now_ms=max(at_ms, facts.agent_now_ms or 0))
    return handler(facts, message, at_ms) if handler is not None else facts


def _started(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    return replace(facts, launched_at_ms=at_ms, phase="start", phase_since_ms=at_ms)


def _phase(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    phase = str(message.get("phase"))
    if phase == facts.phase:
        return facts
    return replace(facts, phase=phase, phase_since_ms=at_ms)


def _progress(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    step = message.get("step")
    if not isinstance(step, int):
        return facts
    raw = message.get("loss")
    loss = float(raw) if isinstance(raw, (int, float)) and math.isfinite(raw) else None
    if loss is None and "loss" not in message:
        return facts  # a line without a loss is a summary, not a step
    best = facts.best_loss
    if loss is not None and (best is None or loss < best):
        best = loss
    steps = (*facts.steps, Step(step, at_ms, loss))[-STEPS_KEPT:]
    return replace(facts, steps=steps, best_loss=best)


def _window(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    nvml = message.get("nvml") or {}
    cards = message.get("cards") or []
    job = message.get("job") or {}
    peaks = [card.get("util_max") for card in cards]
    known = bool(peaks) and all(isinstance(peak, (int, float)) for peak in peaks)
    cores = job.get("cpu_cores")
    window = Window(
        at_ms=at_ms,
        length_ms=int(float(message.get("window_s") or 0) * 1000),
        gpu_percent_max=int(max(peaks)) if known else None,
        gpu_absent=nvml.get("state") == "absent",
        cpu_centicores=round(cores * 100) if isinstance(cores, (int, float)) else None,
        processes=job.get("processes"),
    )
    return replace(facts, windows=(*facts.windows, window)[-WINDOWS_KEPT:])


def _exit(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    artifact = message.get("artifact") or {}
    end = Exit(
        code=message.get("code"),
        signal=message.get("signal"),
        artifact_complete=bool(artifact.get("complete")),
        log_tail=tuple(str(line) for line in message.get("log_tail") or ()),
    )
    return replace(facts, exit=end)


_HANDLERS = {
    "started": _started,
    "phase": _phase,
    "progress": _progress,
    "gpu": _window,
    "exit": _exit,
}
