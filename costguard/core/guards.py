"""Guards: rules that look at what is known and give a verdict, or none.

GPU utilisation alone lies both ways: a hung collective shows 100 %, an evaluation or a download
shows 0 %. So the rules read phase, step cadence, utilisation, CPU time and processes together,
and whatever is unknown never counts as idle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from costguard.core.cadence import cadence, median_step_ms
from costguard.core.exits import (
    EXIT_DIVERGED,
    EXIT_MEANINGS,
    EXIT_SAVED_ON_REQUEST,
    exit_class,
    exit_text,
)
from costguard.core.phases import last_sign_ms
from costguard.core.snapshot import Exit, TrainingFacts, Verdict
from costguard.core.spec import GuardLimits
from costguard.core.stalls import LOG_INTERVALS, last_step, load_seen, stalled

__all__ = [
    "EXIT_SAVED_ON_REQUEST",
    "exit_text",
    "judge_alone",
    "judge_exit",
    "judge_training",
    "median_step_ms",
]

DIVERGED_FACTOR = 3
DIVERGED_STEPS = 20
LINGER_MS = 60_000
LINGER_UNKNOWN_MS = 600_000
VERIFY_PATIENCE_MS = 600_000

Guard = Callable[[TrainingFacts, GuardLimits], Verdict | None]


def judge_training(
    facts: TrainingFacts, limits: GuardLimits, *, expects_adapter: bool
) -> Verdict | None:
    """The first verdict of the guards in order, or None while all is well."""
    if facts.exit is not None:
        if expects_adapter and _is_being_verified(facts, facts.exit):
            return None
        return judge_exit(facts, facts.exit, expects_adapter=expects_adapter)
    for guard in GUARDS:
        verdict = guard(facts, limits)
        if verdict is not None:
            return verdict
    return None


def _is_being_verified(facts: TrainingFacts, end: Exit) -> bool:
    """Whether a large adapter is still being hashed: minutes on a slow disk, not for ever."""
    waited_ms = (facts.agent_now_ms or 0) - (facts.exit_at_ms or 0)
    return end.code == 0 and end.artifact_pending and waited_ms < VERIFY_PATIENCE_MS


def judge_alone(
    facts: TrainingFacts, limits: GuardLimits, *, expects_adapter: bool
) -> Verdict | None:
    """The verdict of an agent whose daemon is silent: the guards, and the user's own time limit."""
    verdict = judge_training(facts, limits, expects_adapter=expects_adapter)
    return verdict or (overtime(facts, limits) if facts.is_alive else None)


def overtime(facts: TrainingFacts, limits: GuardLimits) -> Verdict | None:
    """`max_hours` once training has run for as long as the user allows."""
    if limits.max_ms is None or facts.launched_at_ms is None or facts.agent_now_ms is None:
        return None
    ran_ms = facts.agent_now_ms - facts.launched_at_ms
    if ran_ms < limits.max_ms:
        return None
    evidence = {"ran_s": ran_ms // 1000, "limit_s": limits.max_ms // 1000}
    return Verdict("max_hours", f"training has run for {ran_ms // 60_000} minutes", evidence)


def judge_exit(facts: TrainingFacts, end: Exit, *, expects_adapter: bool) -> Verdict:
    """`finished` on exit 0 with a verified artifact, else `failed` or `diverged`."""
    evidence: dict[str, Any] = {
        "exit_code": end.code,
        "signal": end.signal,
        "artifact_complete": end.artifact_complete,
        "steps": last_step(facts),
        "class": exit_class(end),
    }
    if end.code == 0 and (end.artifact_complete or not expects_adapter):
        return Verdict("finished", "training ended with exit code 0", evidence, save=False)
    is_unseen = end.code is None and end.signal is None
    if is_unseen and end.artifact_complete and is_through(facts):
        evidence["total_steps"] = facts.total_steps
        text = "training is complete; its exit was not seen"
        return Verdict("finished", text, evidence, save=False)
    evidence["log_tail"] = list(end.log_tail[-5:])
    if end.code == 0:
        return Verdict("failed", "exit code 0, but no verified adapter", evidence, save=False)
    if end.code == EXIT_DIVERGED:
        return Verdict("diverged", EXIT_MEANINGS[EXIT_DIVERGED], evidence, save=False)
    return Verdict("failed", exit_text(end), evidence, save=False)


def diverged(facts: TrainingFacts, limits: GuardLimits) -> Verdict | None:
    """The loss is not a number, or has stayed above three times its best for 20 logged steps."""
    if not facts.steps:
        return None
    last = facts.steps[-1]
    if last.loss is None or not math.isfinite(last.loss):
        evidence = {"step": last.step, "loss": None, "best_loss": facts.best_loss}
        return Verdict("diverged", f"the loss at step {last.step} is not a number", evidence)
    recent = facts.steps[-DIVERGED_STEPS:]
    best = facts.best_loss
    if best is None or best <= 0 or len(recent) < DIVERGED_STEPS:
        return None
    if all(step.loss is not None and step.loss > DIVERGED_FACTOR * best for step in recent):
        evidence = {"step": last.step, "loss": last.loss, "best_loss": best}
        return Verdict(
            "diverged", f"the loss has grown from {best:.3f} to {last.loss:.3f}", evidence
        )
    return None


def vanished(facts: TrainingFacts, limits: GuardLimits) -> Verdict | None:
    """`idle` at once: training was launched, nothing of it runs, and no exit was recorded."""
    launched_ms = facts.launched_at_ms
    if launched_ms is None or facts.exit is not None:
        return None
    # What was sampled while the agent still waited for its lease says nothing of the training.
    since = [window for window in facts.windows[-2:] if window.at_ms > launched_ms]
    if len(since) == 2 and all(window.processes == 0 for window in since):
        evidence = {"processes": 0, "windows": 2}
        return Verdict("idle", "no training process is left, and no exit was seen", evidence)
    return None


def idle(facts: TrainingFacts, limits: GuardLimits) -> Verdict | None:
    """`idle` once every window of the allowance, in the training phase, was quiet.

    Quiet: GPU under the limit on every card and the job's processes near 0 % CPU. Without a GPU
    the processes' CPU time decides alone; where NVML should answer and does not, nothing is idle.
    What gets on is not idle, whatever a frozen driver shows: quiet counts from the last step, and
    where no figure of the cards moves, not before steps have ceased to come at their pace.
    """
    if not facts.is_alive or facts.phase != "train" or not facts.windows:
        return None
    stepped_ms = facts.steps[-1].at_ms if facts.steps else 0
    quiet_since_ms = None
    frozen = True
    figures = facts.windows[-1].gpu_figures
    for window in reversed(facts.windows):
        started_ms = window.at_ms - window.length_ms
        if started_ms < max(facts.phase_since_ms or 0, stepped_ms):
            break
        if quiet_since_ms is not None and quiet_since_ms - window.at_ms > limits.silent_after_ms:
            break  # what happened in between is unknown
        gpu = window.gpu_percent_max
        gpu_quiet = window.gpu_absent if gpu is None else gpu < limits.idle_gpu_percent
        cpu = window.cpu_centicores
        if not gpu_quiet or cpu is None or cpu > limits.idle_cpu_centicores:
            break
        quiet_since_ms = started_ms
        frozen = frozen and window.gpu_figures == figures
    if quiet_since_ms is None:
        return None
    last = facts.windows[-1]
    quiet_ms = last.at_ms - quiet_since_ms
    frozen = frozen and bool(figures) and not last.gpu_absent
    if quiet_ms < limits.idle_after_ms or (frozen and _may_step(facts, last.at_ms)):
        return None
    evidence = {
        "quiet_s": quiet_ms // 1000,
        "limit_s": limits.idle_after_ms // 1000,
        "gpu_percent_max": last.gpu_percent_max,
        "gpu_absent": last.gpu_absent,
        "gpu_frozen": frozen,
        "cpu_cores": (last.cpu_centicores or 0) / 100,
        "step": facts.steps[-1].step if facts.steps else 0,
    }
    seen = "no GPU here, CPU" if last.gpu_absent else "GPU and CPU"
    return Verdict("idle", f"{seen} quiet for {quiet_ms // 1000} s in the training phase", evidence)


def _may_step(facts: TrainingFacts, now_ms: int) -> bool:
    """Whether the next line may simply not be due: one that comes each ten minutes tells nothing.

    Figures that do not move to the digit are those of a driver that hangs as often as of a card
    that rests, so that the steps' own pace has the word.
    """
    interval_ms = cadence(facts.steps, facts.phase_since_ms or 0).interval_ms
    if interval_ms is None:
        return False
    return now_ms - facts.steps[-1].at_ms < LOG_INTERVALS * interval_ms


def is_through(facts: TrainingFacts) -> bool:
    """Whether the trainer has said so, or its last step has been logged."""
    total = facts.total_steps
    return facts.phase == "done" or bool(total and last_step(facts) >= total)


def lingers(facts: TrainingFacts, limits: GuardLimits) -> Verdict | None:
    """`finished` though its process is still there: the result is whole and nothing happens.

    A Python that will not exit (a thread, a CUDA teardown, a collective that waits for ever)
    costs as much as one that trains.
    """
    if not facts.is_alive or facts.adapter_at_ms is None or facts.agent_now_ms is None:
        return None
    if not is_through(facts):
        return None
    own_word = ("log",) if facts.phase_inferred else ()  # its output tells of an evaluation
    told_ms = max(facts.adapter_at_ms, last_sign_ms(facts, own_word) or 0)
    silent_ms = facts.agent_now_ms - max(told_ms, facts.signs.bytes_ms or 0)
    if silent_ms < LINGER_MS and facts.agent_now_ms - told_ms < LINGER_UNKNOWN_MS:
        return None
    evidence = {
        "step": last_step(facts),
        "total_steps": facts.total_steps,
        "artifact_complete": True,
        "waited_s": (facts.agent_now_ms - told_ms) // 1000,
        "limit_s": LINGER_MS // 1000,
        **load_seen(facts),
    }
    return Verdict("finished", "training is complete, but its process does not end", evidence)


GUARDS: tuple[Guard, ...] = (diverged, lingers, vanished, idle, stalled)
