from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from trainer.adapter import find_adapter
from trainer.exits import USAGE, Refusal
from trainer.template import QWEN_DEFAULT_SYSTEM

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


@pytest.fixture
def output(trained: dict[int | None, Path], tmp_path: Path) -> Path:
    """A copy of a run's output that may be spoilt."""
    return shutil.copytree(trained[4], tmp_path / "output")


def test_a_runs_output_means_its_adapter(output: Path) -> None:
    """The article's commands name --output_dir; what the run wrote down is known."""
    found = find_adapter(str(output))
    assert found.path == output / "adapter"
    assert found.default_system == "你是客服。"
    assert (found.quantised, found.double_quantization) == (True, True)
    assert found.config()["r"] == 8
    assert find_adapter(str(output / "adapter")) == found


def test_without_a_final_one_it_is_the_newest_checkpoints(output: Path) -> None:
    """A run that was stopped can be talked to; its system prompt is known there too."""
    shutil.rmtree(output / "adapter")
    found = find_adapter(str(output))
    assert found.path == output / "checkpoint-12"
    assert found.default_system == "你是客服。"


def test_of_an_adapter_from_elsewhere_nothing_is_known(output: Path) -> None:
    """Peft's two files alone are enough to load; Qwen's system prompt is taken."""
    (output / "adapter" / "manifest.json").unlink()
    found = find_adapter(str(output / "adapter"))
    assert (found.default_system, found.quantised) == (QWEN_DEFAULT_SYSTEM, None)


def test_a_damaged_adapter_is_refused(output: Path) -> None:
    """A file that is not what its manifest says would answer wrongly, in silence."""
    weights = output / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(Refusal, match="it is damaged"):
        find_adapter(str(output))


@pytest.mark.parametrize("text", ["nowhere", "a,b", "."])
def test_what_is_no_adapter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """With what to give instead."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal) as caught:
        find_adapter(text)
    assert caught.value.exit_code == USAGE
    assert "--output_dir" in caught.value.hint


def test_another_kind_than_lora_is_refused(tmp_path: Path) -> None:
    """Nothing here would know how to load it."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(Refusal, match="no LoRA"):
        find_adapter(str(tmp_path)).config()
