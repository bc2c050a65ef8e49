from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from trainer.exits import USAGE, Refusal
from trainer.flags import parse_train
from trainer.recipe import expand

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """\
### model
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
trust_remote_code: true
quantization_bit: 4
quantization_method: bnb
double_quantization: false

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: [q_proj, v_proj]

### dataset
dataset: {data}
template: qwen
cutoff_len: 2048
overwrite_cache: true

### output
output_dir: out
plot_loss: true
save_only_model: false
report_to: none

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1e-4
num_train_epochs: 3.0
warmup_ratio: 0.1
bf16: true
resume_from_checkpoint: null
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(data=data), encoding="utf-8")
    return path


def refused(recipe: Path, line: str, *more: str) -> Refusal:
    with recipe.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(Refusal) as caught:
        parse_train([str(recipe), *more])
    assert caught.value.exit_code == USAGE
    return caught.value


def test_a_recipe_of_llama_factory_is_taken(recipe: Path) -> None:
    """Every key of its example for QLoRA has its meaning; 1e-4 is a number, null is absence."""
    config = parse_train([str(recipe)])
    assert config.learning_rate == 1e-4
    assert config.lora_target == "q_proj,v_proj"
    assert (config.lora_rank, config.lora_alpha) == (16, 32)
    assert (config.quantization_bit, config.double_quantization) == (4, False)
    assert config.warmup(100) == 10


def test_words_behind_the_recipe_win(recipe: Path) -> None:
    """As flag=value, which is LLaMA-Factory's way, and as --flag value."""
    config = parse_train([str(recipe), "learning_rate=5e-5", "--lora_rank", "4"])
    assert (config.learning_rate, config.lora_rank) == (5e-5, 4)


@pytest.mark.parametrize(
    ("line", "what", "hint"),
    [
        ("lerning_rate: 1", "unknown flag --lerning_rate", "--learning_rate"),
        ("use_dora: true", "--use_dora true is not offered", "DoRA"),
        ("lora_alpha: eight", "--lora_alpha: invalid int", "--help"),
        ("finetuning_type: full", "--finetuning_type full", "GPU memory"),
        ("lr_scheduler_kwargs: {a: {b: c}}", "a value is not a text", "mend"),
        ("a: [", "not YAML", "mend"),
        ("a: &x [*x]", "a value is not a text", "mend"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(recipe: Path, line: str, what: str, hint: str) -> None:
    """A refusal names file and line, what is wrong there and what to do."""
    refusal = refused(recipe, line)
    last = recipe.read_text(encoding="utf-8").count("\n")
    assert refusal.where in {f"{recipe}:{last}", f"{recipe}:{last + 1}"}
    assert what in refusal.what
    assert hint in refusal.hint


def test_a_flag_from_the_command_line_is_not_blamed_on_the_recipe(recipe: Path) -> None:
    """The recipe's lora_rank is right; the one behind it is not."""
    assert refused(recipe, "", "--lora_rank", "x").where == ""


@pytest.mark.parametrize("content", ["- a\n- b\n", "just a text\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    """A list, a text or nothing at all cannot stand for flags."""
    path = tmp_path / "r.yml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(Refusal, match="not a mapping"):
        expand([str(path)])


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Absent, or in another encoding: told, no traceback."""
    with pytest.raises(Refusal, match="cannot be read"):
        expand([str(tmp_path / "none.yaml")])
    (tmp_path / "gbk.yaml").write_bytes("system: 你是".encode("gbk"))
    with pytest.raises(Refusal, match="cannot be read"):
        expand([str(tmp_path / "gbk.yaml")])


def test_without_pyyaml_it_says_so(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags work without that package; a recipe needs it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Refusal, match="PyYAML is not installed"):
        expand([str(recipe)])
    assert expand(["--lora_rank", "8"]).argv == ("--lora_rank", "8")
