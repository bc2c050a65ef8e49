"""Out of memory, the held-out samples, plateaus, step budgets, ladders, beginning anew."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from trainer import passes
from trainer.exits import DIVERGED, FINISHED, SAVED_ON_REQUEST, USAGE
from trainer.loss import supervised_loss_sum
from trainer.options import RunOptions
from trainer.plan import Wishes
from trainer.state import random_state
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainer.config import Config

    MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.torch


def adapter_of(output_dir: Path) -> bytes:
    return (output_dir / "adapter" / "adapter_model.safetensors").read_bytes()


def status(output_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output_dir / "status.json").read_text())
    return document


def logged(output_dir: Path) -> list[dict[str, Any]]:
    lines = (output_dir / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(output_dir: Path) -> list[float]:
    return [line["loss"] for line in logged(output_dir) if "loss" in line]


def stop_after(step: int) -> Callable[[int], None]:
    """A hook that asks for a stop after the given step, as an agent would."""

    def hook(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook


class _Card:
    """Runs out of memory in the passes that `fails(plan tokens, checkpointing)` names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, str], bool]) -> None:
        import torch

        self.seen: list[tuple[int, str]] = []
        self.random: list[Any] = []
        compute = supervised_loss_sum

        def limited(model: Any, batch: dict[str, Any]) -> Any:
            plan = self.passes.plan
            self.seen.append((plan.pack_tokens, plan.checkpointing))
            self.random.append(random_state()["cpu"])
            loss = compute(model, batch)
            if len(self.seen) > 4 and fails(plan.pack_tokens, plan.checkpointing):
                loss.backward()  # partial gradients and drawn random numbers are left behind
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return loss

        card = self

        class Noted(passes.Passes):
            def arrange(self, *arguments: Any, **more: Any) -> None:
                card.passes = self
                super().arrange(*arguments, **more)

        self.passes: passes.Passes
        monkeypatch.setattr(passes, "supervised_loss_sum", limited)
        monkeypatch.setattr("trainer.session.Passes", Noted)


def test_out_of_memory_is_answered_with_smaller_passes(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Partial gradients are dropped, so the run goes on as if it had begun with those passes."""
    wide = RunOptions(wishes=Wishes(pack_tokens=512))
    run(make_config(output_dir=tmp_path / "plain", run=wide))
    card = _Card(monkeypatch, lambda tokens, _checkpointing: tokens > 256)
    assert run(make_config(output_dir=tmp_path / "short", run=wide)) == FINISHED
    assert "out of memory at step 3; from here: passes of up to 256" in capsys.readouterr().err
    assert {tokens for tokens, _ in card.seen} == {512, 256}
    (told,) = [line for line in logged(tmp_path / "short") if "out_of_memory" in line]
    assert (told["current_steps"], told["plan"][:24]) == (2, "passes of up to 256 toke")
    assert losses(tmp_path / "short") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


def test_then_with_more_computed_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where packs cannot be smaller; the checkpoint's fingerprint says what it ran with."""
    card = _Card(monkeypatch, lambda _tokens, checkpointing: checkpointing == "none")
    assert run(make_config()) == FINISHED
    assert [c for _, c in card.seen][-1] == "selective"
    facts = json.loads((tmp_path / "output" / "checkpoint-8" / "trainer_state.json").read_bytes())
    assert facts["execution"]["plan"]["checkpointing"] == "selective"


def test_then_it_ends_with_advice_and_all_steps_saved(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more memory, the run goes on from there."""
    _Card(monkeypatch, lambda _tokens, _checkpointing: True)
    assert run(make_config()) == USAGE
    told = status(tmp_path / "output")
    assert "--cutoff_len 512" in told["detail"]
    assert told["last_checkpoint"]["step"] == told["step"] > 0
    monkeypatch.undo()
    assert run(make_config()) == FINISHED


def test_random_numbers_are_put_back_for_the_second_try(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, the step that is done again draws what it drew the first time."""
    import torch

    card = _Card(monkeypatch, lambda tokens, _checkpointing: tokens > 400)
    options = RunOptions(wishes=Wishes(pack_tokens=512))
    assert run(make_config(lora_dropout=0.1, run=options)) == FINISHED
    first, again = 4, 5  # the pass that failed, and the one that took its place
    assert (card.seen[first][0], card.seen[again][0]) == (512, 256)
    assert torch.equal(card.random[first], card.random[again])


def test_what_fitted_is_kept_on_a_resume(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the same card the wide plan is not tried again, though the flag still says it."""
    config = make_config(run=RunOptions(wishes=Wishes(pack_tokens=512)))
    with monkeypatch.context() as patch:
        _Card(patch, lambda tokens, _checkpointing: tokens > 256)
        assert run(config, stop_after(4)) == SAVED_ON_REQUEST
    capsys.readouterr()
    assert run(config) == FINISHED
    captured = capsys.readouterr()
    assert "plan (the checkpoint's, after memory ran out): passes of up to 256" in captured.out
    assert "not bit for bit" not in captured.err


def test_another_card_gets_a_plan_of_its_own(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Nothing of what is learnt may change, how it is computed may: planned anew, and said."""
    narrow = RunOptions(wishes=Wishes(pack_tokens=256))
    assert run(make_config(run=narrow), stop_after(4)) == SAVED_ON_REQUEST
    monkeypatch.setattr("trainer.model.card_name", lambda _device: "another card")
    capsys.readouterr()
    assert run(make_config()) == FINISHED
    captured = capsys.readouterr()
    assert "plan (usual on another card, where the checkpoint's ran on cpu)" in captured.out
    assert "device: was 'cpu', is 'another card'" in captured.err
    run(make_config(output_dir=tmp_path / "whole"))
    assert losses(tmp_path / "output") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_out_of_memory_in_a_judgement_is_answered_too(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done again in smaller passes, and the run goes on."""
    import torch

    judge = passes.Passes.loss_sum

    def limited(self: passes.Passes, samples: Any) -> float:
        if self.plan.pack_tokens > 256:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return judge(self, samples)

    monkeypatch.setattr(passes.Passes, "loss_sum", limited)
    assert run(make_config(val_size=3, run=RunOptions(eval_steps=4))) == FINISHED
    judged = [line for line in logged(tmp_path / "output") if "eval_loss" in line]
    assert [line["current_steps"] for line in judged] == [4, 8]


def test_out_of_memory_in_the_optimizer_ends_with_advice(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some weights may have changed by then: the checkpoint before stands, and nothing is saved."""
    import torch

    def full(*_arguments: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    config = make_config(save_steps=2)
    assert run(config, stop_after(3)) == SAVED_ON_REQUEST
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", full)
        assert run(config) == USAGE
    told = status(tmp_path / "output")
    assert "--optim paged_adamw_8bit" in told["detail"]
    assert told["last_checkpoint"]["step"] == told["step"] == 3
    assert run(config) == FINISHED


def test_held_out_samples_are_judged_and_the_best_is_kept(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """At each epoch's end; the best checkpoint survives the rotation; training is unchanged."""
    options = RunOptions(eval_steps=2, plot=False)
    config = make_config(val_size=3, run=options, save_steps=1, max_steps=12, save_total_limit=2,
                         learning_rate=0.3)  # fmt: skip
    assert run(config) == FINISHED
    judged = [line for line in logged(tmp_path / "output") if "eval_loss" in line]
    assert [line["current_steps"] for line in judged] == [2, 4, 6, 8, 10, 12]
    best = min(judged, key=lambda line: line["eval_loss"])
    told = status(tmp_path / "output")
    assert told["best_checkpoint"] == {
        "step": best["current_steps"], "eval_loss": best["eval_loss"],
    }  # fmt: skip
    names = {path.name for path in (tmp_path / "output").glob("checkpoint-*")}
    assert names == {f"checkpoint-{best['current_steps']}", "checkpoint-11", "checkpoint-12"}


def test_judging_changes_nothing_of_what_is_learnt(make_config: MakeConfig, tmp_path: Path) -> None:
    """Train, evaluate, train gives the bytes of train, train, with dropout."""
    for name, every in [("often", 1), ("once", 8)]:
        options = RunOptions(eval_steps=every)
        run(make_config(output_dir=tmp_path / name, val_size=3, lora_dropout=0.1, run=options))
    assert adapter_of(tmp_path / "often") == adapter_of(tmp_path / "once")


@pytest.mark.parametrize("stopped_in", [4, 8], ids=["half-way", "at the end"])
def test_a_stop_breaks_a_judgement_off_and_it_is_made_up_for(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: int
) -> None:
    """It may take minutes, and a stop must not; the resume judges first, and ends the same."""
    options = RunOptions(eval_steps=4, plot=False)
    assert run(make_config(output_dir=tmp_path / "whole", val_size=12, run=options)) == FINISHED
    judge, calls = passes.Passes.loss_sum, []

    def interrupted(self: passes.Passes, samples: Any) -> float:
        calls.append(samples)
        if len(calls) == 2 + 3 * (stopped_in // 4 - 1):  # the second batch of three
            os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, samples)

    config = make_config(val_size=12, run=options)
    with monkeypatch.context() as patch:
        patch.setattr(passes.Passes, "loss_sum", interrupted)
        assert run(config) == SAVED_ON_REQUEST
    assert len(calls) == 2 + 3 * (stopped_in // 4 - 1)
    steps: list[int] = []
    assert run(config, steps.append) == FINISHED
    assert steps == list(range(stopped_in + 1, 9))
    for name in ("whole", "output"):
        judged = [line for line in logged(tmp_path / name) if "eval_loss" in line]
        assert [line["current_steps"] for line in judged] == [4, 8]
    best = [status(tmp_path / name)["best_checkpoint"] for name in ("whole", "output")]
    assert best[0] == best[1]
    assert adapter_of(tmp_path / "output") == adapter_of(tmp_path / "whole")


def test_a_plateau_ends_the_run_well(make_config: MakeConfig, tmp_path: Path) -> None:
    """Exit 0, said in the status; the result is the best one judged."""
    options = RunOptions(eval_steps=1, patience=2, min_improvement_percent=50.0)
    assert run(make_config(val_size=3, run=options)) == FINISHED
    told = status(tmp_path / "output")
    assert (told["phase"], told["exit_code"], told["stopped_early"]) == ("done", 0, "plateau")
    assert told["step"] == 3
    best = told["best_checkpoint"]["step"]
    kept = tmp_path / "output" / f"checkpoint-{best}" / "adapter_model.safetensors"
    assert adapter_of(tmp_path / "output") == kept.read_bytes()


def test_a_step_budget_ends_the_run_well_and_can_be_raised(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """`control.json` is read between steps; with a later step the same run goes on."""
    control = tmp_path / "output" / "control.json"

    def allow(step: int) -> None:
        control.parent.mkdir(exist_ok=True)
        temporary = control.with_suffix(".new")
        temporary.write_text(json.dumps({"stop_at_step": step}))
        temporary.replace(control)

    def spent(done: int) -> None:
        if done == 2:
            allow(3)

    run(make_config(output_dir=tmp_path / "whole"))
    assert run(make_config(), spent) == FINISHED
    told = status(tmp_path / "output")
    assert (told["step"], told["stopped_early"], told["exit_code"]) == (3, "step_budget", 0)
    assert told["last_checkpoint"]["step"] == 3
    allow(99)
    assert run(make_config()) == FINISHED
    assert status(tmp_path / "output")["stopped_early"] is None
    assert adapter_of(tmp_path / "output") == adapter_of(tmp_path / "whole")


def test_a_loss_that_runs_away_ends_the_run(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 70; the last checkpoint is from before."""
    compute = supervised_loss_sum
    calls = [0]

    def growing(model: Any, batch: dict[str, Any]) -> Any:
        calls[0] += 1
        return compute(model, batch) * (1.0 if calls[0] < 5 else 10.0)

    monkeypatch.setattr(passes, "supervised_loss_sum", growing)
    assert run(make_config(max_steps=60)) == DIVERGED
    assert "run away" in status(tmp_path / "output")["detail"]
    assert status(tmp_path / "output")["phase"] == "failed"


def test_a_rung_begins_with_the_adapter_of_the_last(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights, a fresh optimizer and schedule; another rank's adapter is refused."""
    first = make_config(output_dir=tmp_path / "first", max_samples=8, save_steps=1)
    assert run(first) == FINISHED
    options = RunOptions(init_adapter=tmp_path / "first" / "adapter")
    assert run(make_config(output_dir=tmp_path / "second", max_samples=16, run=options)) == FINISHED
    run(make_config(output_dir=tmp_path / "base", max_samples=16))
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "base")[0]
    assert logged(tmp_path / "second")[0]["lr"] == 1e-2
    assert run(make_config(output_dir=tmp_path / "x", lora_rank=4, run=options)) == USAGE
    assert "does not fit" in capsys.readouterr().err


def test_from_base_puts_the_old_checkpoints_aside(make_config: MakeConfig, tmp_path: Path) -> None:
    """Another meaning is refused, and begins anew when told so; nothing is deleted."""
    assert run(make_config(), stop_after(2)) == SAVED_ON_REQUEST
    assert run(make_config(seed=7)) == USAGE
    steps: list[int] = []
    assert run(make_config(seed=7, run=RunOptions(begin="base")), steps.append) == FINISHED
    assert steps[0] == 1
    assert (tmp_path / "output" / "displaced-checkpoint-2-1").is_dir()


def test_several_processes_are_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torchrun on 4 cards would pay for 3 that idle."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run(make_config()) == USAGE
    assert "3 would idle" in capsys.readouterr().err


def test_cards_that_would_idle_are_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torchrun too: they are paid for all the same."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert run(make_config()) == USAGE
    said = capsys.readouterr().err
    assert "4 cards are here, but one trains: 3 would idle" in said
    assert "CUDA_VISIBLE_DEVICES=0" in said


# An epoch has 6 steps; the others under make test-full, each takes two runs.
ALWAYS = (1, 6, 7, 13, 20)
MORE = pytest.mark.skipif(not os.environ.get("COSTGUARD_TEST_FULL"), reason="make test-full")


@pytest.mark.parametrize(
    "stop_step",
    [step if step in ALWAYS else pytest.param(step, marks=MORE) for step in range(1, 21)],
)
def test_a_stop_at_any_of_20_steps_changes_nothing(
    make_config: MakeConfig, tmp_path: Path, stop_step: int, uninterrupted: Sequence[bytes]
) -> None:
    """SIGTERM in the middle of the step, between two of its packs: bit for bit the same."""
    calls = [0]
    compute = supervised_loss_sum

    def interrupted(model: Any, batch: dict[str, Any]) -> Any:
        calls[0] += 1
        if calls[0] == 2 * stop_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(model, batch)

    config = twenty_steps(make_config, tmp_path / "output")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "supervised_loss_sum", interrupted)
        code = run(config)
    if code == SAVED_ON_REQUEST:
        assert run(config) == FINISHED
    assert adapter_of(tmp_path / "output") == uninterrupted[0]


def twenty_steps(make_config: MakeConfig, output_dir: Path) -> Config:
    """20 steps over an epoch edge, with dropout, each in two packs."""
    options = RunOptions(wishes=Wishes(pack_tokens=256))
    return make_config(output_dir=output_dir, max_steps=20, lora_dropout=0.1, run=options,
                       logging_steps=20)  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_model: Path, few_rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[bytes]:
    """The adapter of the run that nothing interrupts."""
    from trainer.config import Config

    output_dir = tmp_path_factory.mktemp("whole")

    def make(**changes: object) -> Config:
        fields: dict[str, object] = {
            "model_name_or_path": str(tiny_model), "dataset": few_rows,
            "default_system": "你是客服。", "quantization_bit": 4,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2, "threads": 1, **changes,
        }  # fmt: skip
        return Config(**fields)  # type: ignore[arg-type]

    assert run(twenty_steps(make, output_dir)) == FINISHED
    return [adapter_of(output_dir)]


def test_a_plan_leaves_room_for_the_optimizers_states(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that fits exactly ends the run at its first step. On a resume they are there."""
    room: list[int] = []
    arrange = passes.Passes.arrange

    def noted(self: passes.Passes, *arguments: Any, states: int) -> None:
        room.append(states)
        arrange(self, *arguments, states=states)

    monkeypatch.setattr(passes.Passes, "arrange", noted)
    assert run(make_config(), stop_after(3)) == SAVED_ON_REQUEST
    assert run(make_config()) == FINISHED
    run(make_config(output_dir=tmp_path / "paged", optim="paged_adamw_8bit"))
    assert room == [2, 0, 0]
