from __future__ import annotations

import pytest

from trainer.sampler import choose, shuffled, step_samples, steps_per_epoch


def test_an_order_depends_on_nothing_but_its_arguments() -> None:
    """The order is written down here, so that no machine, version or earlier call changes it."""
    assert shuffled(8, 42, "epoch 0") == (0, 6, 7, 3, 4, 2, 5, 1)
    assert shuffled(8, 42, "epoch 1") != shuffled(8, 42, "epoch 0")
    assert shuffled(8, 43, "epoch 0") != shuffled(8, 42, "epoch 0")


def test_each_epoch_sees_every_sample_once() -> None:
    """The last step may be smaller; nothing is seen twice or left out; no epoch is like another."""
    assert steps_per_epoch(10, 4) == 3
    for epoch in range(3):
        steps = [step_samples(epoch * 3 + place, 10, 4, seed=1) for place in range(3)]
        assert [len(step) for step in steps] == [4, 4, 2]
        assert sorted(index for step in steps for index in step) == list(range(10))
    assert step_samples(0, 10, 4, seed=1) != step_samples(3, 10, 4, seed=1)


def test_a_step_can_be_asked_for_in_any_order() -> None:
    """A resume needs only the step number: what was asked before does not matter."""
    forwards = [step_samples(step, 10, 4, seed=1) for step in range(9)]
    backwards = [step_samples(step, 10, 4, seed=1) for step in reversed(range(9))]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize(("fewer", "more"), [(1, 100), (100, 500), (500, None)])
def test_a_smaller_choice_is_the_start_of_a_larger_one(fewer: int, more: int | None) -> None:
    """`--max_samples 100`, 500, all: each rung has all samples of the one before."""
    assert choose(1000, more, seed=3)[:fewer] == choose(1000, fewer, seed=3)
    assert sorted(choose(1000, None, seed=3)) == list(range(1000))
