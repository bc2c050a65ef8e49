"""When a run ends early: divergence and plateau."""

from __future__ import annotations

from trainer.watch import DIVERGED_STEPS, Watch


def test_a_loss_that_runs_away_is_divergence() -> None:
    """Only once it has been too high for some steps in a row."""
    watch = Watch()
    for _ in range(50):
        assert not watch.step(1.0, 3.0)
    seen = [watch.step(10.0, 3.0) for _ in range(DIVERGED_STEPS + 10)]
    assert seen.count(False) >= DIVERGED_STEPS - 1
    assert seen[-1]


def test_one_bad_batch_is_no_divergence() -> None:
    """The smoothed loss comes back down."""
    watch = Watch()
    losses = [1.0] * 30 + [25.0] + [1.0] * 60
    assert not any(watch.step(loss, 3.0) for loss in losses)


def test_a_factor_of_0_never_ends_a_run() -> None:
    """It switches the rule off."""
    watch = Watch()
    assert not any(watch.step(loss, 0.0) for loss in [1.0, *[1e6] * 100])


def test_the_best_judgement_is_kept() -> None:
    """Its loss and step; an equal one is no better."""
    watch = Watch()
    assert watch.judged(2.0, 10, 0.5)
    assert not watch.judged(2.0, 20, 0.5)
    assert watch.judged(1.5, 30, 0.5)
    assert (watch.best_eval_loss, watch.best_eval_step) == (1.5, 30)


def test_patience_ends_a_plateau() -> None:
    """A gain under the least improvement is the best so far, but does not buy more patience."""
    watch = Watch()
    watch.judged(2.0, 10, 0.5)
    assert not watch.plateau(2)
    assert watch.judged(1.999, 20, 0.5)
    assert not watch.plateau(2)
    assert watch.judged(1.998, 30, 0.5)
    assert watch.plateau(2)
    assert not watch.plateau(0)
