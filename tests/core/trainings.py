"""Trainings for the guards to judge: a healthy one, and what may be different about it."""

from __future__ import annotations

from dataclasses import replace

from costguard.core.guards import judge_training
from costguard.core.snapshot import Step, TrainingFacts, Window
from costguard.core.spec import GuardLimits

LIMITS = GuardLimits(idle_after_ms=10_000, stall_floor_ms=20_000)


def window(at_ms: int, **given: object) -> Window:
    """A five-second window of a machine without a GPU, busy unless told otherwise."""
    base = Window(at_ms, 5_000, None, gpu_absent=True, cpu_centicores=100, processes=2)
    return replace(base, **given)  # type: ignore[arg-type]  # field by field


def steps(count: int, every_ms: int = 1_000, loss: float = 2.0) -> tuple[Step, ...]:
    """Logged steps at an even pace."""
    return tuple(Step(n, n * every_ms, loss) for n in range(1, count + 1))


def training(now_ms: int, **given: object) -> TrainingFacts:
    """A run in its training phase since time 0."""
    base = TrainingFacts(
        agent_now_ms=now_ms, launched_at_ms=0, phase="train", phase_since_ms=0, steps=steps(5)
    )
    return replace(base, **given)  # type: ignore[arg-type]  # field by field


def reason(facts: TrainingFacts, *, expects_adapter: bool = True) -> str | None:
    """The verdict's reason, or None."""
    verdict = judge_training(facts, LIMITS, expects_adapter=expects_adapter)
    return None if verdict is None else verdict.reason
