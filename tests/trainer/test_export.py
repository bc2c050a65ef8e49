from __future__ import annotations

import errno
import json
import shutil
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from trainer import export
from trainer.__main__ import main
from trainer.adapter import find_adapter
from trainer.data import read_dataset
from trainer.exits import FINISHED, SAVE_FAILED, USAGE
from trainer.publish import read_directory
from trainer.serve import load
from trainer.template import IGNORED, QWEN_DEFAULT_SYSTEM, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.serve import Answerer

pytestmark = pytest.mark.torch


@pytest.fixture
def run(
    tiny_model: Path, trained: dict[int | None, Path], tmp_path: Path, few_rows: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, Path, str]]:  # fmt: skip
    """Run the command: (exit code, --export_dir, all that was said)."""

    def go(*more: str, bits: int | None = 4, name: str = "final") -> tuple[int, Path, str]:
        target = tmp_path / "exports" / name
        code = main(
            ["export", "--model_name_or_path", str(tiny_model), "--adapter_name_or_path",
             str(trained[bits]), "--export_dir", str(target), "--dataset", str(few_rows),
             "--val_size", "0.2", *more]
        )  # fmt: skip
        captured = capsys.readouterr()
        return code, target, captured.out + captured.err

    return go


def answers(answerer: Answerer, samples: Any) -> Any:
    """[positions, words] log-probabilities, by transformers."""
    import torch

    found = []
    with torch.inference_mode():
        for sample in samples:
            logits = answerer.model(input_ids=torch.tensor([sample.token_ids])).logits[0, :-1]
            trained = torch.tensor(sample.labels[1:]) != IGNORED
            found.append(logits[trained].float().log_softmax(dim=1))
    return torch.cat(found)


def far(one: Answerer, other: Answerer, few_rows: Path) -> float:
    """Mean KL between two loaded models on the data set."""
    from trainer.streamed import distance

    samples = encode(read_dataset(few_rows).samples[:8], one.tokenizer, "你是客服。")
    return distance(answers(one, samples), answers(other, samples)).mean_kl


@pytest.fixture(scope="module")
def as_trained(tiny_model: Path, trained: dict[int | None, Path]) -> Answerer:
    """What was trained: NF4 base and adapter, loaded by transformers, peft and bitsandbytes."""
    adapter = find_adapter(str(trained[4]))
    return load(tiny_model, adapter, quantised=True, double_quantization=True)


def test_a_merge_loads_and_answers_as_what_was_trained(
    run: Callable[..., tuple[int, Path, str]], as_trained: Answerer, few_rows: Path
) -> None:
    """bf16 from the dequantised base, which is the nearer one: both distances are told and kept."""
    code, target, said = run()
    assert code == FINISHED
    _files, manifest = read_directory(target)
    kl = manifest["kl"]
    assert manifest["merge_base"] == "dequantized"
    assert kl["dequantized"]["mean_kl"] < kl["original"]["mean_kl"] / 10
    assert kl["written"]["mean_kl"] < manifest["kl_limit"] == export.KL_LIMITS["bf16"]
    assert "merged into the original base:" in said
    merged = load(target, None, quantised=False, double_quantization=True)
    assert far(as_trained, merged, few_rows) == pytest.approx(kl["written"]["mean_kl"], abs=1e-4)


def test_the_articles_export_is_nf4_and_says_what_loads_it(
    run: Callable[..., tuple[int, Path, str]], as_trained: Answerer, few_rows: Path
) -> None:
    """--export_quantization_bit 4 --export_device cuda: bitsandbytes' format, named."""
    code, target, said = run("--export_quantization_bit", "4", "--export_device", "cuda")
    assert code == FINISHED
    assert "--export_device is passed over" in said
    assert "bitsandbytes NF4" in said
    loaded = load(target, None, quantised=True, double_quantization=True)
    from trainer.model import assert_no_repacking

    assert assert_no_repacking(loaded.model) == 7
    assert far(as_trained, loaded, few_rows) < export.KL_LIMITS["nf4"]
    assert loaded.answer((), "问", "你是客服。", export_sampling())


def export_sampling() -> Any:
    from trainer.serve import Sampling

    return Sampling(max_new_tokens=8)


def test_a_bf16_run_is_merged_into_its_own_base(
    run: Callable[..., tuple[int, Path, str]], tiny_model: Path, trained: dict[int | None, Path],
    few_rows: Path,
) -> None:  # fmt: skip
    """There is but one base then; the merge is bf16's rounding away from what was trained."""
    code, target, _said = run(bits=None)
    assert code == FINISHED
    assert read_directory(target)[1]["merge_base"] == "original"
    adapter = find_adapter(str(trained[None]))
    beside = load(tiny_model, adapter, quantised=False, double_quantization=True)
    merged = load(target, None, quantised=False, double_quantization=True)
    assert far(beside, merged, few_rows) < 1e-4


@pytest.mark.parametrize("basis", ["original", "dequantized"])
def test_the_base_may_be_chosen(run: Callable[..., tuple[int, Path, str]], basis: str) -> None:
    """Only that one is measured then."""
    code, target, _said = run("--merge_base", basis, "--kl_limit", "1")
    assert code == FINISHED
    manifest = read_directory(target)[1]
    assert manifest["merge_base"] == basis
    assert set(manifest["kl"]) == {"written", basis}


def test_an_export_too_far_from_what_was_trained_is_not_kept(
    run: Callable[..., tuple[int, Path, str]],
) -> None:
    """Exit 76, the distance and the limit told, nothing left behind."""
    code, target, said = run("--merge_base", "original", "--kl_limit", "1e-9")
    assert code == SAVE_FAILED
    assert "over --kl_limit 1e-09" in said
    assert list(target.parent.iterdir()) == []


def test_wrong_weights_are_seen_by_the_comparison(
    run: Callable[..., tuple[int, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that forgets the adapter in one layer fails: the check can fail."""
    from trainer.tensorfile import ShardWriter

    add = ShardWriter.add

    def spoilt(self: ShardWriter, name: str, tensor: Any) -> None:
        add(self, name, -tensor if name.endswith("down_proj.weight") else tensor)

    monkeypatch.setattr(ShardWriter, "add", spoilt)
    code, target, said = run()
    assert code == SAVE_FAILED
    assert "it is not kept" in said
    assert not target.exists()


def test_the_adapter_alone_is_copied_and_loads(
    run: Callable[..., tuple[int, Path, str]], trained: dict[int | None, Path]
) -> None:
    """With a manifest that says what it was trained with."""
    code, target, _said = run("--export_type", "adapter")
    assert code == FINISHED
    found = find_adapter(str(target))
    assert found.semantics == find_adapter(str(trained[4])).semantics
    assert found.config()["r"] == 8


def test_the_system_prompt_of_training_goes_into_the_chat_template(
    run: Callable[..., tuple[int, Path, str]],
) -> None:
    """Else a server would write Qwen's own before every conversation that has none."""
    from transformers import AutoTokenizer

    _code, target, said = run()
    tokenizer = AutoTokenizer.from_pretrained(target)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "问"}], tokenize=False)
    assert text.startswith("<|im_start|>system\n你是客服。<|im_end|>\n")
    assert "serve it with" not in said
    assert export.with_system(QWEN_DEFAULT_SYSTEM, 'say "hi"') == QWEN_DEFAULT_SYSTEM


def test_shards_are_loaded_by_transformers(
    run: Callable[..., tuple[int, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of several files, with the index that from_pretrained reads."""
    from transformers import AutoModelForCausalLM

    from trainer.tensorfile import ShardWriter

    monkeypatch.setattr(
        export, "ShardWriter", lambda directory, _bytes: ShardWriter(directory, 50_000)
    )
    code, target, _said = run()
    assert code == FINISHED
    assert len(list(target.glob("model-*.safetensors"))) > 2
    assert AutoModelForCausalLM.from_pretrained(target).num_parameters() > 0


def test_weights_pass_through_one_at_a_time(
    run: Callable[..., tuple[int, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the model is written no more than one of its tensors is held, whatever its size."""
    from trainer.tensorfile import TensorFiles

    alive: set[int] = set()
    most: list[int] = []
    read, write = TensorFiles.read, export._write_weights

    def counted(self: TensorFiles, name: str) -> Any:
        tensor = read(self, name)
        alive.add(id(tensor))
        weakref.finalize(tensor, alive.discard, id(tensor))
        most.append(len(alive))
        return tensor

    def watched(*arguments: Any) -> None:
        alive.clear()
        with monkeypatch.context() as patched:
            patched.setattr(TensorFiles, "read", counted)
            write(*arguments)

    monkeypatch.setattr(export, "_write_weights", watched)
    code, _target, _said = run("--merge_base", "dequantized")
    assert code == FINISHED
    assert len(most) > 10
    assert max(most) <= 2  # the one that was just read, and the last one until its name is taken


def test_no_layer_that_could_repack_is_made(
    run: Callable[..., tuple[int, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison computes on weights, not on bitsandbytes' layers, whatever the CPU has."""
    import bitsandbytes

    def made(*_arguments: object, **_named: object) -> None:
        raise AssertionError("a Linear4bit was made")

    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "__init__", made)
    assert run("--merge_base", "dequantized")[0] == FINISHED
    assert run("--export_quantization_bit", "4", name="nf4")[0] == FINISHED


def test_without_a_data_set_standard_questions_are_compared_and_said_so(
    tiny_model: Path, trained: dict[int | None, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The article's command names none."""
    words = ["export", "--model_name_or_path", str(tiny_model), "--adapter_name_or_path",
             str(trained[4]), "--export_dir", str(tmp_path / "final")]  # fmt: skip
    assert main(words) == FINISHED
    assert "not on held-out samples of yours" in capsys.readouterr().err
    assert json.loads((tmp_path / "final" / "manifest.json").read_bytes())["kl"]["written"]


def test_a_full_disk_leaves_nothing_behind(
    run: Callable[..., tuple[int, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before the computing where it can be known, exit 76 either way."""

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("trainer.export.ShardWriter.add", full)
        code, target, said = run("--merge_base", "dequantized")
    assert code == SAVE_FAILED
    assert "No space left" in said
    assert list(target.parent.iterdir()) == []
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("trainer.export.shutil.disk_usage", lambda _path: usage)
    code, target, said = run()
    assert code == SAVE_FAILED
    assert "computing" not in said
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--export_quantization_bit", "8"], "export_quantization_bit 8"),
        (["--quantization_bit", "3"], "quantization_bit 3"),
        (["--kl_limit", "nan"], "kl_limit nan"),
        (["--export_dirs", "x"], "did you mean --export_dir"),
        (["--eval_tokens", "8"], "no sample is short enough"),
        (["--adapter_name_or_path", "nowhere"], "there is no adapter"),
        (["--export_dir", "."], "something is there already"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    run: Callable[..., tuple[int, Path, str]], more: list[str], what: str
) -> None:
    """One message, exit USAGE, nothing written."""
    code, target, said = run(*more)
    assert code == USAGE
    assert what in said
    assert not target.exists()


def test_an_adapter_of_another_shape_is_refused(
    run: Callable[..., tuple[int, Path, str]], tmp_path: Path, trained: dict[int | None, Path]
) -> None:
    """Its weights would be added to the wrong ones."""
    import safetensors.torch
    import torch

    other = tmp_path / "other"
    other.mkdir()
    config = trained[4] / "adapter" / "adapter_config.json"
    (other / "adapter_config.json").write_bytes(config.read_bytes())
    name = "base_model.model.model.layers.0.mlp.up_proj."
    weights = {f"{name}lora_A.weight": torch.ones(8, 32), f"{name}lora_B.weight": torch.ones(9, 8)}
    safetensors.torch.save_file(weights, other / "adapter_model.safetensors")
    code, _target, said = run("--adapter_name_or_path", str(other))
    assert code == USAGE
    assert "is not in the model" in said
    (other / "adapter_config.json").write_text(
        json.dumps({**json.loads(config.read_bytes()), "use_dora": True})
    )
    code, _target, said = run("--adapter_name_or_path", str(other))
    assert code == USAGE
    assert "it has use_dora" in said
