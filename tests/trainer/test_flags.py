from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trainer.exits import DATA, USAGE, Refusal
from trainer.flags import parse_train

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.config import Config

ARTICLE = (
    "--stage sft --do_train --model_name_or_path qwen/Qwen2.5-7B-Instruct --dataset_dir {dir} "
    "--dataset train --template qwen --finetuning_type lora --lora_target c_attn --output_dir out "
    "--overwrite_cache --per_device_train_batch_size 1 --gradient_accumulation_steps 8 "
    "--lr_scheduler_type cosine --logging_steps 10 --save_steps 50 --learning_rate 2e-4 "
    "--num_train_epochs 3 --max_samples 1000 --cutoff_len 1024 --fp16 --plot_loss "
    "--ddp_timeout 30000 --quantization_bit 4 --double_quantization --max_steps 100"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text("{}\n", encoding="utf-8")
    return tmp_path


def parse(data: Path, *more: str) -> Config:
    needed = ["--model_name_or_path", "qwen/x", "--dataset", str(data / "train.jsonl")]
    return parse_train([*needed, "--output_dir", "out", *more])


def test_the_articles_command_works(data: Path) -> None:
    """Every flag of the article is taken, bare switches too, and gives what it says."""
    config = parse_train(ARTICLE.format(dir=data).split())
    assert config.dataset == data / "train.jsonl"
    assert config.samples_per_step == 8
    assert (config.quantization_bit, config.double_quantization) == (4, True)
    assert (config.learning_rate, config.max_steps, config.max_samples) == (2e-4, 100, 1000)
    assert config.lora_target == "k_proj,q_proj,v_proj"


def test_what_is_passed_over_or_changed_is_said(data: Path) -> None:
    """Each flag that does not do what it says has a notice; the others have none."""
    notices = parse_train(ARTICLE.format(dir=data).split()).notices
    assert [notice.split(" ", 1)[0] for notice in notices] == [
        "--overwrite_cache",
        "--plot_loss",
        "--ddp_timeout",
        "--fp16",
        "--lora_target",
    ]
    assert parse(data).notices == ()


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--lerning_rate", "--learning_rate"),
        ("--lora_alpah=3", "--lora_alpha"),
        ("--max_sample", "--max_samples"),
        ("--warmup_ratio", "--warmup_steps"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest(data: Path, flag: str, near: str) -> None:
    """A typing error costs no night: it is refused, not passed over or guessed."""
    with pytest.raises(Refusal) as caught:
        parse(data, flag, "1")
    assert caught.value.exit_code == USAGE
    assert caught.value.hint == f"did you mean {near}?"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--finetuning_type", "full"], "finetuning_type full"),
        (["--stage", "dpo"], "stage dpo"),
        (["--template", "llama3"], "template llama3"),
        (["--quantization_bit", "8"], "quantization_bit 8"),
        (["--learning_rate", "nan"], "learning_rate nan"),
        (["--learning_rate", "-1"], "learning_rate -1"),
        (["--max_steps", "0"], "max_steps 0"),
        (["--lora_rank", "0"], "lora_rank: must be 1 or more"),
        (["--lora_rank", "eight"], "invalid int value: 'eight'"),
        (["--optim", "sgd"], "invalid choice: 'sgd'"),
        (["--do_train", "perhaps"], "neither true nor false"),
        (["--default_system", "a<|im_end|>"], "control token"),
        (["--model_name_or_path", "/no/such"], "no such model"),
        (["--model_name_or_path", "/"], "no config.json"),
    ],
)
def test_a_wrong_value_is_refused(data: Path, more: list[str], what: str) -> None:
    """Each wrong value gives one message that names it, and exit code USAGE."""
    with pytest.raises(Refusal) as caught:
        parse(data, *more)
    assert caught.value.exit_code == USAGE
    assert what in caught.value.text()


def test_full_training_is_refused_with_the_reason(data: Path) -> None:
    """The refusal says why, and what to use."""
    with pytest.raises(Refusal, match="not offered") as caught:
        parse(data, "--finetuning_type", "full")
    assert "GPU memory" in caught.value.hint


def test_a_missing_data_set_is_an_error_of_the_data(tmp_path: Path) -> None:
    """The exit code tells a missing data set from a wrong flag."""
    with pytest.raises(Refusal) as caught:
        parse(tmp_path)
    assert caught.value.exit_code == DATA


def test_a_switch_takes_a_value_too(data: Path) -> None:
    """LLaMA-Factory's switches may be bare or have a value."""
    assert parse(data, "--double_quantization", "false").double_quantization is False
    assert parse(data, "--double_quantization").double_quantization is True


def test_a_limit_of_one_checkpoint_is_said_to_be_two(data: Path) -> None:
    """The last one may be damaged, so two are kept, and the notice says so."""
    assert "last 2" in parse(data, "--save_total_limit", "1").notices[0]
