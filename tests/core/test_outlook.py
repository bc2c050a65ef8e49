from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.forecast import Fit
from costguard.core.outlook import outlook
from costguard.core.schedule import Known
from costguard.core.snapshot import Snapshot, Step
from costguard.core.spec import Run, Schedule, Stage
from tests.core.snapshots import NOW, RUNNING, SPEC, YUAN

STEPS = tuple(Step(n, 1_000 * n, 1.0) for n in range(1, 21))
TRAINING = replace(RUNNING.training, steps=STEPS, total_steps=120)
SNAP = replace(RUNNING, training=TRAINING)


def planned(schedule: Schedule | None, stages: int = 1) -> Snapshot:
    """The same job with this planned beside its steps, in each of so many stages of 100 samples."""
    runs = (Run(argv=("x",), save_grace_ms=10_000, schedule=schedule),) * stages
    ladder = (Stage(max_samples=100),) * stages
    return replace(SNAP, spec=replace(SPEC, stages=ladder, runs=runs))


def high_ms(snap: Snapshot) -> int:
    """The far end of the time still to come."""
    found = outlook(snap, NOW)
    assert found is not None
    return found.time_ms.high


def with_stages(*samples: int | None) -> Snapshot:
    """The same job as a ladder of stages of these sizes."""
    stages = tuple(Stage(max_samples=count) for count in samples)
    runs = (Run(argv=("x",), save_grace_ms=10_000),) * len(samples)
    return replace(SNAP, spec=replace(SPEC, stages=stages, runs=runs))


def test_what_is_left_is_reckoned_from_the_pace() -> None:
    """A hundred steps of a second and a save, at a yuan a second."""
    found = outlook(SNAP, NOW)
    assert found is not None
    assert found.time_ms.likely == 100_000 + 5_000
    assert found.cost_micros.low < found.cost_micros.likely < found.cost_micros.high
    assert found.cost_micros.likely == 107 * YUAN  # a stop takes a quarter of its worst 5 s
    assert (found.fit, found.bites_at_step) == (Fit.FITS, None)


def test_the_pauses_of_a_long_run_count_from_its_beginning() -> None:
    """Steps that the window no longer holds took longer than their pace: evaluations and saves."""
    late = tuple(replace(each, step=each.step + 500) for each in SNAP.training.steps)
    facts = replace(SNAP.training, steps=late, total_steps=late[-1].step + 100)
    early = Step(late[0].step - 10, late[0].at_ms - 40_000, 1.0)
    without = outlook(replace(SNAP, training=facts), NOW)
    paused = outlook(replace(SNAP, training=replace(facts, began=early)), NOW)
    assert without is not None
    assert paused is not None
    assert paused.time_ms.likely > without.time_ms.likely


def test_later_stages_are_taken_to_run_at_this_ones_pace() -> None:
    """For as many steps as their samples ask for, each rounded up."""
    found = outlook(with_stages(100, 250, 33), NOW)
    assert found is not None
    assert found.time_ms.likely == 100_000 + (300 + 40) * 1_000 + 5_000


@pytest.mark.parametrize("samples", [(100, None), (None, 100)])
def test_stages_of_unknown_size_are_no_forecast(samples: tuple[int | None, ...]) -> None:
    """Rather than one that leaves them out."""
    assert outlook(with_stages(*samples), NOW) is None


def test_the_last_stage_may_be_of_any_size() -> None:
    """Its steps are told by itself."""
    assert outlook(with_stages(None), NOW) is not None


@pytest.mark.parametrize(
    "unknown",
    [
        {"instance": None},
        {"tariff": None},
        {"training": replace(TRAINING, launched_at_ms=None)},
        {"training": replace(TRAINING, steps=())},
        {"training": replace(TRAINING, steps=STEPS[:2])},
        {"training": replace(TRAINING, total_steps=None)},
    ],
)
def test_while_too_little_is_known_there_is_no_forecast(unknown: dict[str, object]) -> None:
    """No instance, no price, no training, no pace, no end."""
    assert outlook(replace(SNAP, **unknown), NOW) is None  # type: ignore[arg-type]  # its fields


def test_a_run_beyond_its_last_step_has_nothing_left() -> None:
    """It saves."""
    over = replace(TRAINING, total_steps=10)
    found = outlook(replace(SNAP, training=over), NOW)
    assert found is not None
    assert found.time_ms.likely == 5_000


def test_evaluations_that_are_to_come_are_allowed_for_until_one_was_seen() -> None:
    """Three of eight samples each, as slow as six steps at most; then the pace has them."""
    none, plan = Schedule(), Schedule(evaluate_every=30, held_out=8, samples_per_step=8)
    assert high_ms(planned(plan)) - high_ms(planned(none)) == pytest.approx(6 * 1_000, rel=0.04)
    found = outlook(planned(plan), NOW)
    assert found is not None
    assert found.evaluations is Known.SIZE
    often = replace(plan, evaluate_every=10)
    found = outlook(planned(often), NOW)
    assert found is not None
    assert found.evaluations is Known.ENOUGH
    assert found == outlook(planned(none), NOW)


def test_what_was_due_before_this_run_began_was_not_seen() -> None:
    """It was resumed after the evaluation at step 10, and its lines begin there."""
    plan = planned(Schedule(evaluate_every=10, held_out=8, samples_per_step=8))
    late = tuple(replace(each, step=each.step + 10) for each in STEPS[:9])
    found = outlook(replace(plan, training=replace(TRAINING, steps=late, began=late[0])), NOW)
    assert found is not None
    assert found.evaluations is Known.SIZE
    early = replace(TRAINING, steps=late, began=Step(3, -10_000, 1.0))
    found = outlook(replace(plan, training=early), NOW)
    assert found is not None
    assert found.evaluations is Known.ENOUGH


def test_later_stages_have_evaluations_of_their_own() -> None:
    """Four more of two seconds at most, in the 120 steps of the second stage and after them."""
    plan = Schedule(evaluate_every=30, evaluates_after=1, held_out=8, samples_per_step=8)
    one, two = (high_ms(planned(plan, stages)) for stages in (1, 2))
    without = high_ms(planned(Schedule(), 2)) - high_ms(planned(Schedule()))
    assert two - one - without == pytest.approx(4 * 2_000, rel=0.04)


def test_the_far_end_of_a_command_is_twice_its_steps_until_a_pause_was_seen() -> None:
    """Nobody knows what it does beside them."""
    unknown, none = planned(None), planned(Schedule())
    assert high_ms(unknown) - high_ms(none) == pytest.approx(100_000, rel=0.04)
    paused = tuple(replace(each, at_ms=each.at_ms + 60_000 * (each.step > 10)) for each in STEPS)
    seen = replace(TRAINING, steps=paused)
    assert high_ms(replace(unknown, training=seen)) == high_ms(replace(none, training=seen))
