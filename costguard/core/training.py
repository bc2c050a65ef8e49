"""From the agent's messages to what the guards look at: one pure fold, message by message.

The daemon folds the journal as it arrives and, after a restart, the journal as it was stored:
both give the same facts. The journal comes from a rented machine, so any field may hold anything:
what is not of the expected kind counts as unknown, and no message can make the fold fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from costguard.core.snapshot import Exit, Signs, Step, TrainingFacts, Verdict, Window

STEPS_KEPT = 200
FIRST_LOSSES_KEPT = 5  # one logged loss is noise; the gate compares medians of a few
AGENT_REASONS = ("finished", "failed", "stalled", "idle", "diverged", "max_hours")
FIGURE_MAX = 1e15  # what is larger is junk, and would not survive being rounded
BYTES_SIGN_KIB = 64  # in a window: what a stuck download's retries stay under
CPU_SIGN_CENTICORES = 10
FIGURES = (
    *("util_mean", "util_max", "mem_used_mib", "power_w", "temp_c"),
    *("clock_sm_mhz", "clock_mem_mhz"),
)
GPU_SIGN_PERCENT = 5
WINDOWS_KEPT = 720  # an hour of 5-second windows: longer than any allowance but a user's own


def fold(facts: TrainingFacts, message: Mapping[str, Any]) -> TrainingFacts:
    """`facts` with one message of the agent taken in; messages it does not know change nothing."""
    handler = _HANDLERS.get(str(message.get("t")))
    at_ms = _whole(message.get("boot_ms"))
    if at_ms is None:
        return facts
    facts = replace(facts, agent_now_ms=max(at_ms, facts.agent_now_ms or 0))
    return handler(facts, message, at_ms) if handler is not None else facts


def _started(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    return replace(
        facts,
        launched_at_ms=at_ms,
        phase="start",
        phase_since_ms=at_ms,
        phase_inferred=False,
        signs=Signs(),
        adapter_at_ms=None,
        began=None,
    )


def _phase(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    phase = message.get("phase")
    if not isinstance(phase, str):
        return facts
    facts = replace(facts, signs=replace(facts.signs, status_ms=at_ms))
    if phase == facts.phase:
        return facts
    inferred = message.get("inferred") is True
    return replace(facts, phase=phase, phase_since_ms=at_ms, phase_inferred=inferred)


def _progress(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    step, total = _whole(message.get("step")), _whole(message.get("total_steps"))
    facts = replace(
        facts,
        signs=replace(facts.signs, progress_ms=at_ms),
        total_steps=facts.total_steps if total is None else total,
    )
    if step is None or not _has_loss(message):
        return facts  # a line without a loss is a summary or an evaluation, not a step
    loss = _number(message["loss"])
    best = facts.best_loss
    if loss is not None and (best is None or loss < best):
        best = loss
    first = facts.first_losses
    if loss is not None and len(first) < FIRST_LOSSES_KEPT:
        first = (*first, loss)
    here = Step(step, at_ms, loss)
    steps = (*facts.steps, here)[-STEPS_KEPT:]
    began = facts.began or here
    return replace(facts, steps=steps, began=began, first_losses=first, best_loss=best)


def _has_loss(message: Mapping[str, Any]) -> bool:
    """Whether a line tells a loss, be it NaN; the agent names in `nonfinite` what was none."""
    if "loss" not in message:
        return False
    nonfinite = message.get("nonfinite")
    if message["loss"] is None and isinstance(nonfinite, list):
        return "loss" in nonfinite
    return True


def _window(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    found = message.get("cards")
    cards = found if isinstance(found, list) else []
    peaks = [_number(_fields(card).get("util_max")) for card in cards]
    known = [peak for peak in peaks if peak is not None]
    state = _fields(message.get("nvml")).get("state")
    # Where a card is lost or the driver was reset, what the rest says is not the whole.
    whole = bool(known) and len(known) == len(peaks) and state == "ok"
    job = _fields(message.get("job"))
    cores = _number(job.get("cpu_cores"))
    window = Window(
        at_ms=at_ms,
        length_ms=int((_number(message.get("window_s")) or 0) * 1000),
        gpu_percent_max=int(max(known)) if whole else None,
        gpu_absent=state == "absent",
        cpu_centicores=None if cores is None else round(cores * 100),
        processes=_whole(job.get("processes")),
        gpu_state=state if isinstance(state, str) else "error",
        gpu_figures=tuple(_number(_fields(card).get(key)) for card in cards for key in FIGURES),
    )
    signs = _signs(facts.signs, window, job, at_ms)
    return replace(facts, windows=(*facts.windows, window)[-WINDOWS_KEPT:], signs=signs)


def _signs(signs: Signs, window: Window, job: Mapping[str, Any], at_ms: int) -> Signs:
    """The signs of life of one window. What is unknown counts as life: it is never silence."""
    log_kib, io_kib = _number(job.get("log_kib")), _number(job.get("io_kib"))
    cpu, gpu = window.cpu_centicores, window.gpu_percent_max
    has_gpu_work = not window.gpu_absent if gpu is None else gpu >= GPU_SIGN_PERCENT
    return Signs(
        progress_ms=signs.progress_ms,
        status_ms=signs.status_ms,
        log_ms=at_ms if log_kib is None or log_kib > 0 else signs.log_ms,
        bytes_ms=at_ms if io_kib is None or io_kib >= BYTES_SIGN_KIB else signs.bytes_ms,
        cpu_ms=at_ms if cpu is None or cpu > CPU_SIGN_CENTICORES else signs.cpu_ms,
        gpu_ms=at_ms if has_gpu_work else signs.gpu_ms,
    )


def _checkpoint(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    """A verified adapter is the result; one that was verified after the exit completes it."""
    if message.get("kind") != "adapter" or message.get("complete") is not True:
        return facts
    facts = replace(facts, adapter_at_ms=at_ms)
    if facts.exit is None:
        return facts
    return replace(facts, exit=replace(facts.exit, artifact_complete=True, artifact_pending=False))


def _exit(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    lines = message.get("log_tail")
    end = Exit(
        code=_whole(message.get("code")),
        signal=_whole(message.get("signal")),
        artifact_complete=_fields(message.get("artifact")).get("complete") is True,
        log_tail=tuple(str(line) for line in lines) if isinstance(lines, list) else (),
        artifact_pending=message.get("artifact_pending") is True,
        asked=isinstance(message.get("stop_id"), str),
        detail=str(message.get("detail") or ""),
    )
    return replace(facts, exit=end, exit_at_ms=at_ms)


def _verdict(facts: TrainingFacts, message: Mapping[str, Any], at_ms: int) -> TrainingFacts:
    """The first one counts: what came after it was already being ended."""
    reason, text = message.get("reason"), message.get("text")
    if facts.verdict is not None or reason not in AGENT_REASONS or not isinstance(text, str):
        return facts
    evidence = {**_fields(message.get("evidence")), "by": "agent"}
    return replace(facts, verdict=Verdict(str(reason), text, evidence, save=False))


def _whole(value: object) -> int | None:
    """The value if it is an integer; a boolean is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    """The value if it is a number of a size that a figure can have: no NaN, nothing infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -FIGURE_MAX < value < FIGURE_MAX else None


def _fields(value: object) -> Mapping[str, Any]:
    """The value if it has fields, else no fields."""
    return value if isinstance(value, Mapping) else {}


_HANDLERS = {
    "started": _started,
    "phase": _phase,
    "progress": _progress,
    "gpu": _window,
    "checkpoint": _checkpoint,
    "exit": _exit,
    "verdict": _verdict,
}
