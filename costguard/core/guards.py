"""Guards: rules that look at what is known and give a verdict, or none.

GPU utilisation alone lies both ways: a hung collective shows 100 %, an evaluation or a download
shows 0 %. So the rules read phase, step cadence, utilisation, CPU time and processes together,
and whatever is unknown never counts as idle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median
from typing import Any

from costguard.core.snapshot import Exit, Step, TrainingFacts, Verdict
from costguard.core.spec import GuardLimits

EXIT_SAVED_ON_REQUEST = 75
EXIT_DIVERGED = 70

EXIT_MEANINGS: Mapping[int, str] = {
    2: "the training command was called wrongly",
    65: "the data set was refused",
    70: "the loss was no longer a number, or diverged",
    75: "saved on request",
    76: "a checkpoint could not be saved",
}

# Phases other than training are silent for good reasons; each has its own patience.
PHASE_ALLOWANCE_MS: Mapping[str, int] = {
    "save": 600_000,
    "evaluate": 1_800_000,
    "download": 14_400_000,
}
OTHER_PHASE_ALLOWANCE_MS = 1_800_000

DIVERGED_FACTOR = 3
DIVERGED_STEPS = 20
CADENCE_STEPS = 50

Guard = Callable[[TrainingFacts, GuardLimits], Verdict | None]


def judge_training(
    facts: TrainingFacts, limits: GuardLimits, *, expects_adapter: bool
) -> Verdict | None:
    """The first verdict of the guards in order, or None while all is well."""
    if facts.exit is not None:
        return judge_exit(facts, facts.exit, expects_adapter=expects_adapter)
    for guard in GUARDS:
        verdict = guard(facts, limits)
        if verdict is not None:
            return verdict
    return None


def judge_exit(facts: TrainingFacts, end: Exit, *, expects_adapter: bool) -> Verdict:
    """`finished` on exit 0 with a verified artifact, else `failed` or `diverged`."""
    evidence: dict[str, Any] = {
        "exit_code": end.code,
        "signal": end.signal,
        "artifact_complete": end.artifact_complete,
        "steps": facts.steps[-1].step if facts.steps else 0,
    }
    if end.code == 0 and (end.artifact_complete or not expects_adapter):
        return Verdict("finished", "training ended with exit code 0", evidence, save=False)
    evidence["log_tail"] = list(end.log_tail[-5:])
    if end.code == 0:
        return Verdict("failed", "exit code 0, but no verified adapter", evidence, save=False)
    if end.code == EXIT_DIVERGED:
        return Verdict("diverged", EXIT_MEANINGS[EXIT_DIVERGED], evidence, save=False)
    return Verdict("failed", exit_text(end), evidence, save=False)


def exit_text(end: Exit) -> str:
    """How the process ended, in words."""
    if end.signal is not None:
        return f"training was killed by signal {end.signal}"
    if any("out of memory" in line.lower() for line in end.log_tail):
        return f"training ran out of memory (exit code {end.code})"
    meaning = EXIT_MEANINGS.get(end.code or 0)
    return f"training ended with exit code {end.code}" + (f": {meaning}" if meaning else "")


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
    """
    if not facts.is_alive or facts.phase != "train" or not facts.windows:
        return None
    quiet_since_ms = None
    for window in reversed(facts.windows):
        started_ms = window.at_ms - window.length_ms
        if facts.phase_since_ms is not None and started_ms < facts.phase_since_ms:
            break
        if quiet_since_ms is not None and quiet_since_ms - window.at_ms > limits.silent_after_ms:
            break  # what happened in between is unknown
        gpu = window.gpu_percent_max
        gpu_quiet = window.gpu_absent if gpu is None else gpu < limits.idle_gpu_percent
        cpu = window.cpu_centicores
        if not gpu_quiet or cpu is None or cpu > limits.idle_cpu_centicores:
            break
        quiet_since_ms = started_ms
    if quiet_since_ms is None:
        return None
    last = facts.windows[-1]
    quiet_ms = last.at_ms - quiet_since_ms
    if quiet_ms < limits.idle_after_ms:
        return None
    evidence = {
        "quiet_s": quiet_ms // 1000,
        "limit_s": limits.idle_after_ms // 1000,
        "gpu_percent_max": last.gpu_percent_max,
        "gpu_absent": last.gpu_absent,
        "cpu_cores": (last.cpu_centicores or 0) / 100,
        "step": facts.steps[-1].step if facts.steps else 0,
    }
    seen = "no GPU here, CPU" if last.gpu_absent else "GPU and CPU"
    return Verdict("idle", f"{seen} quiet for {quiet_ms // 1000} s in the training phase", evidence)


def stalled(facts: TrainingFacts, limits: GuardLimits) -> Verdict | None:
    """`stalled` when no new step came within max(floor, factor x median step), or a phase hangs."""
    if not facts.is_alive or facts.agent_now_ms is None or facts.phase_since_ms is None:
        return None
    last_ms = facts.phase_since_ms
    if facts.phase != "train":
        allowance_ms = PHASE_ALLOWANCE_MS.get(facts.phase or "", OTHER_PHASE_ALLOWANCE_MS)
        median_ms = None
    else:
        if facts.steps:
            last_ms = max(last_ms, facts.steps[-1].at_ms)
        median_ms = median_step_ms(facts.steps)
        allowance_ms = max(limits.stall_floor_ms, limits.stall_factor * (median_ms or 0))
    waited_ms = facts.agent_now_ms - last_ms
    if waited_ms < allowance_ms:
        return None
    last = facts.windows[-1] if facts.windows else None
    evidence = {
        "phase": facts.phase,
        "waited_s": waited_ms // 1000,
        "allowance_s": allowance_ms // 1000,
        "median_step_s": None if median_ms is None else median_ms / 1000,
        "step": facts.steps[-1].step if facts.steps else 0,
        "gpu_percent_max": None if last is None else last.gpu_percent_max,
        "cpu_cores": None
        if last is None or last.cpu_centicores is None
        else last.cpu_centicores / 100,
    }
    what = "no new step" if facts.phase == "train" else f"no end of phase {facts.phase}"
    return Verdict("stalled", f"{what} for {waited_ms // 1000} s", evidence)


def median_step_ms(steps: tuple[Step, ...]) -> int | None:
    """The median time between logged steps, over the latest 50 of them; None before the second."""
    recent = steps[-CADENCE_STEPS:]
    gaps = [
        (later.at_ms - earlier.at_ms)
        for earlier, later in pairwise(recent)
        if later.step > earlier.step
    ]
    return int(median(gaps)) if gaps else None


GUARDS: tuple[Guard, ...] = (diverged, vanished, idle, stalled)
