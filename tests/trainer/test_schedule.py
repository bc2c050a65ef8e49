from __future__ import annotations

import pytest

from trainer.schedule import learning_rate


def test_the_cosine_goes_up_then_down_to_zero() -> None:
    """0 at the first step of a warm-up, the peak at its end, half in the middle, 0 at the end."""

    def rate(step: int) -> float:
        return learning_rate(step, peak=2.0, scheduler="cosine", warmup_steps=4, total_steps=24)

    assert [rate(step) for step in (0, 2, 4)] == [0.0, 1.0, 2.0]
    assert rate(14) == pytest.approx(1.0)
    assert rate(24) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_the_curves_are_those_of_transformers(scheduler: str, warmup_steps: int) -> None:
    """Each step's rate equals the one that transformers' scheduler of that name gives."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    name = "constant_with_warmup" if scheduler == "constant" else scheduler
    theirs = get_scheduler(name, optimizer, warmup_steps, 20)
    for step in range(20):
        ours = learning_rate(
            step, peak=3e-4, scheduler=scheduler, warmup_steps=warmup_steps, total_steps=20
        )
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()
