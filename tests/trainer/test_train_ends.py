"""What a run refuses, and what it says of its end."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from trainer.exits import DATA, FINISHED, USAGE
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


def status(output_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output_dir / "status.json").read_text())
    return document


def test_lora_targets_can_be_named(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named modules alone are adapted; a name the model does not have is refused with its own."""
    config = make_config(lora_target="q_proj,v_proj", max_steps=1, quantization_bit=None)
    assert run(config) == FINISHED
    adapter = json.loads((tmp_path / "output" / "adapter" / "adapter_config.json").read_bytes())
    assert adapter["target_modules"] == ["q_proj", "v_proj"]
    assert run(make_config(lora_target="query", output_dir=tmp_path / "x")) == USAGE
    assert "gate_proj" in capsys.readouterr().err


def test_overlong_samples_are_named_and_too_many_refused(
    make_config: MakeConfig, few_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out by line number, never in silence; a cutoff that takes a tenth is refused."""
    row = {"instruction": "长" * 300, "output": "答"}
    data = tmp_path / "long.jsonl"
    long_row = json.dumps(row, ensure_ascii=False) + "\n"
    data.write_text(few_rows.read_text(encoding="utf-8") + long_row, encoding="utf-8")
    assert run(make_config(dataset=data, cutoff_len=300, max_steps=1)) == FINISHED
    captured = capsys.readouterr()
    assert "line 23: left out" in captured.err
    assert "22 samples" in captured.out
    assert run(make_config(cutoff_len=60, output_dir=tmp_path / "x")) == DATA
    assert "raise --cutoff_len" in capsys.readouterr().err


def test_bad_rows_end_the_run_before_the_model_is_loaded(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 65 costs no loading; status.json names the line."""
    from trainer import model as models

    data = tmp_path / "bad.jsonl"
    data.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')
    monkeypatch.setattr(models, "load_tokenizer", lambda _config: pytest.fail("it loaded"))
    assert run(make_config(dataset=data)) == DATA
    assert "line 2: output is missing" in status(tmp_path / "output")["detail"]


def test_a_model_that_cannot_be_loaded_is_refused(
    make_config: MakeConfig, tmp_path: Path, tiny_model: Path
) -> None:
    """A directory with a config and no weights gives one message, not a traceback."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((tiny_model / name).read_bytes())
    assert run(make_config(model_name_or_path=str(broken))) == USAGE
    assert "its model cannot be loaded" in status(tmp_path / "output")["detail"]


def test_two_trainers_never_share_a_directory(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second one is refused while the first is at work, and leaves its files alone."""
    codes: list[int] = []
    phases: list[str] = []

    def start_another(_step: int) -> None:
        codes.append(run(make_config()))
        phases.append(status(tmp_path / "output")["phase"])

    assert run(make_config(max_steps=1), start_another) == FINISHED
    assert (codes, phases) == ([USAGE], ["train"])
    assert "another trainer" in capsys.readouterr().err


def test_an_output_directory_that_cannot_be_made_is_refused(
    make_config: MakeConfig, few_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message with the path, not a traceback."""
    assert run(make_config(output_dir=few_rows / "output")) == USAGE
    assert "give an --output_dir that can be written" in capsys.readouterr().err


def test_the_hook_is_called_after_each_step(make_config: MakeConfig) -> None:
    """Once a step, in order, with the number of steps taken."""
    steps: list[int] = []
    assert run(make_config(), steps.append) == FINISHED
    assert steps == list(range(1, 9))


def test_a_crash_is_told_in_the_status(make_config: MakeConfig, tmp_path: Path) -> None:
    """An error that nobody foresaw keeps its traceback, and status.json says failed."""

    def crash(_step: int) -> None:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError):
        run(make_config(), crash)
    last = status(tmp_path / "output")
    assert (last["phase"], last["exit_code"]) == ("failed", 1)
    assert last["detail"] == "RuntimeError: CUDA out of memory"
