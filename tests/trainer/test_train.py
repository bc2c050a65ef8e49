"""Real QLoRA runs of a tiny model, in this process."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from trainer import passes, session
from trainer.__main__ import main
from trainer.disk import Disk
from trainer.exits import (
    DIVERGED,
    FINISHED,
    SAVE_FAILED,
    SAVED_ON_REQUEST,
    USAGE,
)
from trainer.loss import supervised_loss_sum
from trainer.progress import Status
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.config import Config

    MakeConfig = Callable[..., Config]

pytestmark = pytest.mark.torch


def sha256_of_adapter(output_dir: Path) -> str:
    data = (output_dir / "adapter" / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(data).hexdigest()


def logged(output_dir: Path) -> list[dict[str, Any]]:
    lines = (output_dir / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(output_dir: Path) -> dict[int, float]:
    return {line["current_steps"]: line["loss"] for line in logged(output_dir)}


def status(output_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output_dir / "status.json").read_text())
    return document


def tensors_in(value: Any) -> list[Any]:
    """All tensors in nested dicts."""
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return [value] if hasattr(value, "dtype") else []


def stop_after(step: int) -> Callable[[int], None]:
    """A hook that sends this process SIGTERM after the given step, as an agent would."""

    def hook(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook


def test_the_loss_falls_on_real_text(make_config: MakeConfig, rows: Path, tmp_path: Path) -> None:
    """The example's rows, the model that make-model makes, 60 steps: it falls by 20 % or more."""
    assert main(["make-model", "--out", str(tmp_path / "m"), "--data", str(rows)]) == FINISHED
    config = make_config(
        model_name_or_path=str(tmp_path / "m"),
        dataset=rows,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        learning_rate=5e-3,
        warmup_steps=5,
        max_steps=60,
        logging_steps=5,
        threads=0,
    )
    assert run(config) == FINISHED
    curve = losses(tmp_path / "output")
    assert curve[60] < 0.8 * curve[5]


def test_the_phases_are_told_in_order(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load, tokenise, load, train, save …, done; the last status says how it ended."""
    phases: list[str] = []
    update = Status.update

    def record(self: Status, **fields: Any) -> None:
        update(self, **fields)
        if not phases or phases[-1] != self.phase:
            phases.append(str(self.phase))

    monkeypatch.setattr(Status, "update", record)
    assert run(make_config(save_steps=5)) == FINISHED
    assert phases == [
        "load", "tokenise", "load", "train", "save", "train", "save", "train", "save", "done",
    ]  # fmt: skip
    last = status(tmp_path / "output")
    assert (last["phase"], last["exit_code"], last["step"], last["total_steps"]) == (
        "done",
        0,
        8,
        8,
    )
    assert last["last_checkpoint"] == {"step": 8, "path": "checkpoint-8"}


@pytest.mark.parametrize(("size", "accumulation"), [(4, 1), (1, 4)])
def test_the_loss_is_that_of_the_whole_step(
    make_config: MakeConfig, tmp_path: Path, size: int, accumulation: int
) -> None:
    """Cut into micro-batches in any way, a step has the same loss and leads to the same next."""
    run(make_config(output_dir=tmp_path / "two", max_steps=3))
    run(
        make_config(
            output_dir=tmp_path / "other",
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
    )
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "two"), rel=1e-5)


def test_the_loss_is_the_plain_one_of_transformers(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step's loss equals transformers' own, of each sample alone, without packing."""
    import torch

    theirs: list[float] = []

    class Compared(passes.Passes):
        def gradients(self, samples: Any) -> Any:
            if not theirs:
                total = 0.0
                for sample in samples:
                    ids, labels = torch.tensor([sample.token_ids]), torch.tensor([sample.labels])
                    total += self.model(input_ids=ids, labels=labels).loss.item() * (
                        sample.supervised()
                    )
                theirs.append(total / sum(sample.supervised() for sample in samples))
            return super().gradients(samples)

    monkeypatch.setattr(session, "Passes", Compared)
    assert run(make_config(max_steps=1)) == FINISHED
    assert losses(tmp_path / "output")[1] == pytest.approx(theirs[0], rel=1e-5)


@pytest.mark.parametrize("stops", [[1], [6], [3, 5, 7]], ids=str)
def test_interrupted_and_resumed_is_bit_for_bit_the_same(
    make_config: MakeConfig, tmp_path: Path, stops: list[int]
) -> None:
    """SIGTERM in an epoch, at its edge, and three times: same adapter and log, with dropout."""

    def config(name: str) -> Config:
        return make_config(output_dir=tmp_path / name, lora_dropout=0.1, logging_steps=2)

    assert run(config("whole")) == FINISHED
    for step in stops:
        assert run(config("stopped"), stop_after(step)) == SAVED_ON_REQUEST
        assert status(tmp_path / "stopped")["phase"] == "stopped"
        assert status(tmp_path / "stopped")["last_checkpoint"]["step"] == step
    assert run(config("stopped")) == FINISHED
    assert sha256_of_adapter(tmp_path / "stopped") == sha256_of_adapter(tmp_path / "whole")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_the_8bit_optimizer_resumes_bit_for_bit_too(
    make_config: MakeConfig, tmp_path: Path, rows: Path
) -> None:
    """`paged_adamw_8bit` with matrices large enough that its states are kept in 8 bits."""
    import torch

    model = tmp_path / "m"
    sizes = ["--hidden", "256", "--layers", "1", "--intermediate", "64"]
    assert main(["make-model", "--out", str(model), "--data", str(rows), *sizes]) == FINISHED

    def config(name: str) -> Config:
        return make_config(
            output_dir=tmp_path / name, optim="paged_adamw_8bit", max_steps=4, lora_rank=16,
            model_name_or_path=str(model),
        )  # fmt: skip

    assert run(config("whole")) == FINISHED
    assert run(config("stopped"), stop_after(2)) == SAVED_ON_REQUEST
    saved = torch.load(tmp_path / "stopped" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert torch.uint8 in {tensor.dtype for tensor in tensors_in(saved["state"])}
    assert run(config("stopped")) == FINISHED
    assert sha256_of_adapter(tmp_path / "stopped") == sha256_of_adapter(tmp_path / "whole")


def test_when_it_saves_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    """Saved each step, or only at the end: the same adapter; the last ones are kept."""
    run(make_config(output_dir=tmp_path / "each", save_steps=1, lora_dropout=0.1))
    run(make_config(output_dir=tmp_path / "end", lora_dropout=0.1))
    assert sha256_of_adapter(tmp_path / "each") == sha256_of_adapter(tmp_path / "end")
    assert sorted(path.name for path in (tmp_path / "each").glob("checkpoint-*")) == [
        "checkpoint-6",
        "checkpoint-7",
        "checkpoint-8",
    ]


def test_it_saves_by_time_too(make_config: MakeConfig, tmp_path: Path) -> None:
    """With an interval shorter than a step, each step is saved."""
    run(make_config(save_interval_s=1e-6, save_total_limit=20))
    assert len(list((tmp_path / "output").glob("checkpoint-*"))) == 8


def test_a_damaged_checkpoint_costs_steps_not_the_run(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bit flips in the newest: the run goes on from the older one, says so, and ends the same."""
    run(make_config(output_dir=tmp_path / "whole"))
    config = make_config(output_dir=tmp_path / "hurt", save_steps=2)
    assert run(config, stop_after(5)) == SAVED_ON_REQUEST
    optimizer = tmp_path / "hurt" / "checkpoint-5" / "optimizer.pt"
    data = bytearray(optimizer.read_bytes())
    data[len(data) // 2] ^= 1
    optimizer.write_bytes(data)
    assert run(config) == FINISHED
    captured = capsys.readouterr()
    assert "checkpoint-5: optimizer.pt does not have the sha256" in captured.err
    assert "going on from checkpoint-4" in captured.out
    assert sha256_of_adapter(tmp_path / "hurt") == sha256_of_adapter(tmp_path / "whole")


def test_it_never_begins_anew_in_silence(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all checkpoints damaged it refuses: to begin anew would be to pay again."""
    assert run(make_config(), stop_after(2)) == SAVED_ON_REQUEST
    (tmp_path / "output" / "checkpoint-2" / "optimizer.pt").unlink()
    assert run(make_config()) == USAGE
    assert "nothing to go on from" in capsys.readouterr().err
    assert status(tmp_path / "output")["phase"] == "failed"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-2}, "learning_rate: was 0.01, is 0.02"),
        ({"max_steps": 9}, "total_steps: was 8, is 9"),
        ({"gradient_accumulation_steps": 3}, "samples_per_step: was 4, is 6"),
        ({"lora_rank": 4}, "lora_rank: was 8, is 4"),
    ],
)
def test_a_resume_with_another_meaning_is_refused(
    make_config: MakeConfig, change: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What decides what is learnt may not change between resumes; the refusal names it."""
    assert run(make_config(), stop_after(2)) == SAVED_ON_REQUEST
    assert run(make_config(**change)) == USAGE
    assert named in capsys.readouterr().err


def test_a_resume_with_other_data_is_refused(
    make_config: MakeConfig, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data set's hash is part of what a run means."""
    assert run(make_config(), stop_after(2)) == SAVED_ON_REQUEST
    assert run(make_config(dataset=rows)) == USAGE
    assert "dataset_sha256" in capsys.readouterr().err


def test_the_micro_batch_may_change_on_a_resume(make_config: MakeConfig) -> None:
    """4 samples a step stay 4 samples a step, in whatever pieces."""
    assert run(make_config(), stop_after(2)) == SAVED_ON_REQUEST
    config = make_config(per_device_train_batch_size=4, gradient_accumulation_steps=1)
    assert run(config) == FINISHED


def test_a_finished_run_has_nothing_more_to_do(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run again, it takes no step and leaves the adapter; a lost adapter is made again."""
    steps: list[int] = []
    assert run(make_config()) == FINISHED
    before = sha256_of_adapter(tmp_path / "output")
    for file in (tmp_path / "output" / "adapter").iterdir():
        file.unlink()
    capsys.readouterr()
    assert run(make_config(), steps.append) == FINISHED
    assert (steps, capsys.readouterr().err) == ([], "")
    assert sha256_of_adapter(tmp_path / "output") == before


def test_resume_never_begins_only_where_nothing_is(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """It refuses a directory with checkpoints, and takes an empty one."""
    assert run(make_config(resume="never"), stop_after(2)) == SAVED_ON_REQUEST
    assert run(make_config(resume="never")) == USAGE
    assert "checkpoint-2 is there" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_run(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 70, null in the log, and the checkpoint before it is kept as it was."""
    compute = supervised_loss_sum
    calls = [0]

    def poisoned(model: Any, batch: dict[str, Any]) -> Any:
        calls[0] += 1
        return compute(model, batch) * (float("nan") if calls[0] > 8 else 1.0)

    monkeypatch.setattr(passes, "supervised_loss_sum", poisoned)
    assert run(make_config(save_steps=2)) == DIVERGED
    lines = logged(tmp_path / "output")
    assert [line["current_steps"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1]["loss"] is None
    assert not (tmp_path / "output" / "adapter").exists()
    last = status(tmp_path / "output")
    assert (last["phase"], last["exit_code"], last["step"]) == ("failed", 70, 4)
    assert last["last_checkpoint"]["step"] == 4


def test_a_gradient_that_is_no_number_ends_it_before_it_harms(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss with an infinite gradient changes no weight either."""
    import torch

    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *_arguments: torch.tensor(float("inf"))
    )
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_arguments: pytest.fail("it stepped"))
    assert run(make_config()) == DIVERGED


def fail_checkpoints(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the disk be full whenever a directory of one of `names` is written."""
    create = Disk.create

    def full(self: Disk, path: Path) -> int:
        if any(f".partial-{name}-" in str(path) for name in names):
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(self, path)

    monkeypatch.setattr(Disk, "create", full)


def test_a_full_disk_in_a_save_loses_only_that_save(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The periodic save at step 4 fails, the run goes on, and ends as if it had not."""
    run(make_config(output_dir=tmp_path / "whole"))
    fail_checkpoints(monkeypatch, "checkpoint-4")
    config = make_config(save_steps=2, save_total_limit=9)
    assert run(config) == FINISHED
    steps = sorted(path.name for path in (tmp_path / "output").glob("checkpoint-*"))
    assert steps == ["checkpoint-2", "checkpoint-6", "checkpoint-8"]
    assert sha256_of_adapter(tmp_path / "output") == sha256_of_adapter(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "stop_step"), [("checkpoint-3", 3), ("checkpoint-8", 0), ("adapter", 0)]
)
def test_a_save_that_must_be_and_fails_exits_76(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    stop_step: int,
) -> None:  # fmt: skip
    """The save on request, the last one and the adapter: 76; with room again, the run ends well."""
    fail_checkpoints(monkeypatch, name)
    config = make_config(save_steps=2)
    assert run(config, stop_after(stop_step)) == SAVE_FAILED
    assert status(tmp_path / "output")["exit_code"] == SAVE_FAILED
    assert "No space left" in status(tmp_path / "output")["detail"]
    monkeypatch.undo()
    assert run(config) == FINISHED


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_adapter_loads_with_peft_and_carries_what_was_learnt(
    make_config: MakeConfig, tmp_path: Path, tiny_model: Path
) -> None:
    """PeftModel.from_pretrained takes it; its weights are the saved ones, and they do something."""
    import safetensors.torch
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    assert run(make_config()) == FINISHED
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.tensor([[1, 5, 9, 13]])
    with torch.no_grad():
        before = base(ids).logits
        model = PeftModel.from_pretrained(base, tmp_path / "output" / "adapter")
        after = model(ids).logits
    saved = safetensors.torch.load_file(
        tmp_path / "output" / "adapter" / "adapter_model.safetensors"
    )
    loaded = get_peft_model_state_dict(model)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert (after - before).abs().max() > 1e-3


def test_the_base_is_nf4_frozen_and_never_repacked(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every linear layer but the output is NF4 with double quantisation; train, evaluate, train."""
    import bitsandbytes
    import torch

    from trainer.model import assert_no_repacking

    seen: list[Any] = []
    compute = supervised_loss_sum

    def with_evaluation(model: Any, batch: dict[str, Any]) -> Any:
        seen.append(model)
        model.eval()
        with torch.no_grad():
            compute(model, batch)
        model.train()
        return compute(model, batch)

    monkeypatch.setattr(passes, "supervised_loss_sum", with_evaluation)
    assert run(make_config(max_steps=3)) == FINISHED
    model = seen[-1]
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert assert_no_repacking(model) == len(layers) == 7
    assert all(layer.weight.quant_state.nested for layer in layers)
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 14
    assert all("lora_" in name for name in trained)
    layers[0].support_avx512bf16_for_cpu = True
    with pytest.raises(AssertionError, match="repack"):
        assert_no_repacking(model)


def test_an_evaluation_between_steps_changes_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, evaluate, train gives the very adapter of train, train."""
    import torch

    run(make_config(output_dir=tmp_path / "plain", max_steps=3))
    compute = supervised_loss_sum

    def with_evaluation(model: Any, batch: dict[str, Any]) -> Any:
        model.eval()
        with torch.no_grad():
            compute(model, batch)
        model.train()
        return compute(model, batch)

    monkeypatch.setattr(passes, "supervised_loss_sum", with_evaluation)
    run(make_config(output_dir=tmp_path / "evaluated", max_steps=3))
    assert sha256_of_adapter(tmp_path / "evaluated") == sha256_of_adapter(tmp_path / "plain")
