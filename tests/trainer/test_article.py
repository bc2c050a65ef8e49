"""The article's own commands, word for word, with a small model in the place of the large one."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from trainer.__main__ import main
from trainer.exits import FINISHED

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

TRAIN = (
    "train --stage sft --do_train --model_name_or_path ./Qwen2.5-7B-Instruct --dataset_dir data "
    "--dataset train --template qwen --finetuning_type lora --lora_target c_attn "
    "--output_dir output/qwen2.5-7b-lora --overwrite_cache --per_device_train_batch_size 1 "
    "--gradient_accumulation_steps 8 --lr_scheduler_type cosine --logging_steps 10 "
    "--save_steps 50 --learning_rate 2e-4 --num_train_epochs 3 --max_samples 1000 "
    "--cutoff_len 1024 --fp16 --plot_loss --ddp_timeout 30000"
)
CHAT = (
    "chat --model_name_or_path ./Qwen2.5-7B-Instruct "
    "--adapter_name_or_path output/qwen2.5-7b-lora --template qwen --stream_output "
    "--temperature 0.7 --top_p 0.9 --max_new_tokens 16"
)
EXPORT = (
    "export --model_name_or_path ./Qwen2.5-7B-Instruct "
    "--adapter_name_or_path output/qwen2.5-7b-lora --export_dir ./final_model "
    "--export_quantization_bit 4 --export_device cuda"
)


@pytest.fixture
def workspace(
    tmp_path: Path, tiny_model: Path, few_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder that the article works in: the model, data/train.jsonl, nothing else."""
    shutil.copytree(tiny_model, tmp_path / "Qwen2.5-7B-Instruct")
    (tmp_path / "data").mkdir()
    shutil.copy(few_rows, tmp_path / "data" / "train.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("more", ["", "--quantization_bit 4 --double_quantization --max_steps 2"])
def test_train_chat_and_export(
    workspace: Path, more: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after another, as the article has them: bf16 LoRA, and QLoRA with a few steps first."""
    assert main(f"{TRAIN} {more}".split()) == FINISHED
    told = capsys.readouterr().err
    for word in (
        "--fp16 runs as bf16",
        "Qwen2.5's q_proj k_proj v_proj",
        "--ddp_timeout is passed",
    ):
        assert told.count(word) == 1
    config = json.loads(
        (workspace / "output/qwen2.5-7b-lora/adapter/adapter_config.json").read_bytes()
    )
    assert config["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    monkeypatch.setattr("sys.stdin", io.StringIO("用户问：发票怎么开？\n"))
    assert main(CHAT.split()) == FINISHED
    assert capsys.readouterr().out.strip()
    assert main(EXPORT.split()) == FINISHED
    exported = json.loads((workspace / "final_model/config.json").read_bytes())
    assert exported["quantization_config"]["bnb_4bit_quant_type"] == "nf4"


def test_a_recipe_of_llama_factory_trains(workspace: Path) -> None:
    """The same run from a YAML file, with a word on the command line that wins."""
    words = TRAIN.split()[1:]
    recipe = []
    for index, word in enumerate(words):
        if word.startswith("--"):
            after = words[index + 1] if index + 1 < len(words) else "--"
            recipe.append(f"{word[2:]}: {'true' if after.startswith('--') else after}")
    (workspace / "recipe.yaml").write_text("\n".join(recipe), encoding="utf-8")
    assert main(["train", "recipe.yaml", "max_steps=1"]) == FINISHED
    status = json.loads((workspace / "output/qwen2.5-7b-lora/status.json").read_bytes())
    assert (status["phase"], status["total_steps"]) == ("done", 1)
