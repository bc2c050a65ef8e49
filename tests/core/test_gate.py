from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.gate import judge_gate
from costguard.core.snapshot import Step, TrainingFacts
from costguard.core.spec import Stage

GATE = Stage(max_samples=100, gate_loss_drop_percent=10)


def facts(first: tuple[float, ...], last: tuple[float | None, ...]) -> TrainingFacts:
    """A stage that began and ended with these losses."""
    steps = tuple(Step(n, n, loss) for n, loss in enumerate(last))
    return TrainingFacts(first_losses=first, steps=steps)


def test_a_stage_without_a_gate_may_go_on() -> None:
    """Whatever its loss did."""
    assert judge_gate(facts((2.0,), (9.0,)), replace(GATE, gate_loss_drop_percent=None)) is None


@pytest.mark.parametrize(("last", "passes"), [(1.8, True), (1.79, True), (1.81, False)])
def test_the_loss_must_fall_by_what_the_gate_asks(last: float, passes: bool) -> None:
    """A tenth is a tenth."""
    assert (judge_gate(facts((2.0,), (last,)), GATE) is None) is passes


def test_medians_of_a_few_are_compared() -> None:
    """One lucky batch at the end opens no gate, and what is not a number is left out."""
    lucky = facts((2.0, 2.0, 2.0), (2.0, 2.0, 0.1, None))
    verdict = judge_gate(lucky, GATE)
    assert verdict is not None
    assert verdict.reason == "gate"
    assert not verdict.save
    assert verdict.evidence == {
        "first_loss": 2.0,
        "last_loss": 2.0,
        "fell_percent": 0.0,
        "wanted_percent": 10,
    }
    steady = facts((2.0,), (9.0, *[1.0] * 5))  # the last five alone count
    assert judge_gate(steady, GATE) is None


@pytest.mark.parametrize(
    ("first", "last"), [((), (1.0,)), ((2.0,), ()), ((2.0,), (None,)), ((0.0,), (0.0,))]
)
def test_a_stage_that_cannot_be_judged_does_not_pass(
    first: tuple[float, ...], last: tuple[float | None, ...]
) -> None:
    """Nothing was logged, or nothing that a fall could be told of."""
    verdict = judge_gate(facts(first, last), GATE)
    assert verdict is not None
    assert (verdict.reason, verdict.evidence["wanted_percent"]) == ("gate", 10)
    assert "no loss" in verdict.text
