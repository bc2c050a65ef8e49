from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.exits import DATA, FINISHED, USAGE
from trainer.publish import read_directory

ROOT = Path(__file__).parents[2]
SMALL = ["--hidden", "64", "--layers", "1", "--intermediate", "64", "--vocab_size", "300"]


def make(out: Path, data: Path, *more: str) -> int:
    return main(["make-model", "--out", str(out), "--data", str(data), *SMALL, *more])


def test_the_same_arguments_give_the_same_bytes(
    tmp_path: Path, few_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another process with another hash seed too; the printed sha256 is theirs."""
    assert make(tmp_path / "a", few_rows) == FINISHED
    sha256 = capsys.readouterr().out.split()[-1]
    command = [sys.executable, "-m", "trainer", "make-model", *SMALL, "--data", str(few_rows)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "b")],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert read_directory(tmp_path / "a")[0] == read_directory(tmp_path / "b")[0]
    assert done.stdout.split()[-1] == sha256
    assert len(bytes.fromhex(sha256)) == 32


def test_another_seed_gives_other_weights(tmp_path: Path, few_rows: Path) -> None:
    """The seed reaches the weights, and the weights alone."""
    make(tmp_path / "a", few_rows)
    make(tmp_path / "b", few_rows, "--seed", "1")
    first, second = (read_directory(tmp_path / name)[0] for name in "ab")
    assert [name for name in first if first[name] != second[name]] == ["model.safetensors"]


def test_made_again_it_is_left_alone(
    tmp_path: Path, few_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command finds it made; another recipe does not overwrite it."""
    make(tmp_path / "a", few_rows)
    before = hashlib.sha256((tmp_path / "a" / "model.safetensors").read_bytes()).digest()
    assert make(tmp_path / "a", few_rows) == FINISHED
    assert "made already" in capsys.readouterr().out
    assert make(tmp_path / "a", few_rows, "--seed", "1") == USAGE
    assert "something else is there already" in capsys.readouterr().err
    after = hashlib.sha256((tmp_path / "a" / "model.safetensors").read_bytes()).digest()
    assert before == after


@pytest.mark.parametrize(
    "more",
    [["--hidden", "100"], ["--layers", "0"], ["--vocab_size", "200"], ["--intermediate", "70"]],
)
def test_sizes_that_make_no_model_are_refused(
    tmp_path: Path, few_rows: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal names the flag, and nothing is written."""
    assert make(tmp_path / "a", few_rows, *more) == USAGE
    assert more[0] in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_bad_data_make_no_model(tmp_path: Path) -> None:
    """The tokenizer is trained on rows that are good."""
    data = tmp_path / "d.jsonl"
    data.write_text("{}\n")
    assert make(tmp_path / "a", data) == DATA
    assert not (tmp_path / "a").exists()


@pytest.mark.torch
def test_it_loads_with_the_auto_classes(tiny_model: Path) -> None:
    """AutoModelForCausalLM takes every tensor, AutoTokenizer gives any text back."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, told = AutoModelForCausalLM.from_pretrained(tiny_model, output_loading_info=True)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.dtype == torch.bfloat16
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "您好 3 天内发货。\n\n  OK? 😀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == json.loads((tiny_model / "config.json").read_text())["vocab_size"]


@pytest.mark.torch
def test_bf16_is_rounded_as_torch_does() -> None:
    """To nearest, to even on a tie, also where a rounding carries into the exponent."""
    import numpy as np
    import torch

    from trainer.make_model import _bfloat16

    ties = [1.00390625, 1.01171875, 0.99999994, -3.1415927, 0.0, 65535.9]
    values = np.concatenate([np.array(ties), np.random.default_rng(0).normal(size=4096)])
    values = values.astype(np.float32)
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    assert _bfloat16(values) == theirs.tobytes()
