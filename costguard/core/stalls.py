"""Whether training or another phase has stopped getting on: by steps and signs of life.

Utilisation decides nothing here, since a hung collective shows 100 %: it is only kept as evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.core.cadence import cadence
from costguard.core.phases import last_sign_ms, patience_for
from costguard.core.snapshot import TrainingFacts, Verdict

if TYPE_CHECKING:
    from costguard.core.spec import GuardLimits

# A step is seen only when it is logged: three silent intervals between log lines mean no step.
LOG_INTERVALS = 3
UNKNOWN_CADENCE_FACTOR = 5  # times the floor, until two lines tell how often one is logged
UNSEEN_EVALUATION_MS = 1_800_000


def stalled(facts: TrainingFacts, limits: GuardLimits) -> Verdict | None:
    """`stalled` when no new step came within its allowance, or a phase is silent or endless."""
    if not facts.is_alive or facts.agent_now_ms is None or facts.phase_since_ms is None:
        return None
    if facts.phase == "train":
        return _stalled_steps(facts, limits, facts.agent_now_ms, facts.phase_since_ms)
    return _stalled_phase(facts, facts.agent_now_ms, facts.phase_since_ms)


def _stalled_steps(
    facts: TrainingFacts, limits: GuardLimits, now_ms: int, since_ms: int
) -> Verdict | None:
    """No progress for max(floor, factor x median step, three intervals between log lines)."""
    waited_ms = now_ms - max(since_ms, _last_line_ms(facts) or 0)
    if waited_ms < limits.stall_floor_ms:
        return None  # no allowance is shorter
    # Where no phase is told, `train` is entered by its first line: what came before is the only
    # measure, until a second line, of how often one is logged (`logging_steps` may be hundreds).
    began_ms = facts.launched_at_ms if facts.phase_inferred else None
    pace = cadence(facts.steps, since_ms if began_ms is None else began_ms)
    allowance_ms = max(limits.stall_floor_ms, LOG_INTERVALS * (pace.interval_ms or 0))
    if pace.step_ms is None:
        allowance_ms = max(allowance_ms, UNKNOWN_CADENCE_FACTOR * limits.stall_floor_ms)
    else:
        allowance_ms = max(allowance_ms, limits.stall_factor * pace.step_ms)
    log_ms = facts.signs.log_ms
    if facts.phase_inferred and log_ms is not None and now_ms - log_ms < limits.stall_floor_ms:
        # It tells no phases, and it writes: most likely it evaluates. Not for ever.
        allowance_ms = max(allowance_ms, UNSEEN_EVALUATION_MS)
    if waited_ms < allowance_ms:
        return None
    evidence = {
        "phase": facts.phase,
        "waited_s": waited_ms // 1000,
        "allowance_s": allowance_ms // 1000,
        "median_step_s": None if pace.step_ms is None else pace.step_ms / 1000,
        "log_interval_s": None if pace.interval_ms is None else pace.interval_ms / 1000,
        "step": last_step(facts),
        **load_seen(facts),
    }
    return Verdict("stalled", f"no new step for {waited_ms // 1000} s", evidence)


def _last_line_ms(facts: TrainingFacts) -> int | None:
    """The last step or other progress line; in training a status that is rewritten is no step."""
    last = facts.steps[-1].at_ms if facts.steps else None
    known = [at for at in (last, facts.signs.progress_ms) if at is not None]
    return max(known) if known else None


def _stalled_phase(facts: TrainingFacts, now_ms: int, since_ms: int) -> Verdict | None:
    patience = patience_for(facts.phase)
    silent_ms = now_ms - max(since_ms, last_sign_ms(facts, patience.signs) or 0)
    whole_ms = now_ms - since_ms
    is_endless = patience.whole_ms is not None and whole_ms >= patience.whole_ms
    if silent_ms < patience.quiet_ms and not is_endless:
        return None
    allowance_ms = patience.whole_ms if is_endless else patience.quiet_ms
    waited_ms = whole_ms if is_endless else silent_ms
    evidence = {
        "phase": facts.phase,
        "waited_s": waited_ms // 1000,
        "allowance_s": (allowance_ms or 0) // 1000,
        "in_phase_s": whole_ms // 1000,
        "silent_s": silent_ms // 1000,
        "signs_of_life": ["progress", "status", *patience.signs],
        "step": last_step(facts),
        **load_seen(facts),
    }
    what = f"no end of phase {facts.phase}" if is_endless else f"phase {facts.phase} is silent"
    return Verdict("stalled", f"{what} for {waited_ms // 1000} s", evidence)


def load_seen(facts: TrainingFacts) -> dict[str, Any]:
    """What the machine showed last, for the evidence: it decides nothing here."""
    last = facts.windows[-1] if facts.windows else None
    cpu = None if last is None else last.cpu_centicores
    return {
        "gpu_percent_max": None if last is None else last.gpu_percent_max,
        "gpu_state": None if last is None else last.gpu_state,
        "cpu_cores": None if cpu is None else cpu / 100,
        "processes": None if last is None else last.processes,
    }


def last_step(facts: TrainingFacts) -> int:
    """The number of the last step that was logged, 0 before the first."""
    return facts.steps[-1].step if facts.steps else 0
