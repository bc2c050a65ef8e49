from __future__ import annotations

import json
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
    assert parse_train(ARTICLE.format(dir=data).split()[:-5]).quantization_bit is None


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


def test_the_articles_target_is_told_with_what_is_trained(data: Path) -> None:
    """c_attn is Qwen-1's name; Qwen2.5's three that stand for it are named."""
    (notice,) = parse(data, "--lora_target", "c_attn").notices
    assert (
        notice
        == "--lora_target c_attn is Qwen-1's name: trained are Qwen2.5's q_proj k_proj v_proj"
    )


@pytest.mark.parametrize(
    "more",
    [
        ["--fp16"],
        ["--lora_target", "c_attn"],
        ["--pure_bf16", "true"],
        ["--optim", "paged_adamw_32bit"],
        ["--save_total_limit", "1"],
    ],
)
def test_what_would_run_otherwise_is_refused_when_strict(data: Path, more: list[str]) -> None:
    """Without --strict it is one notice; with it, the same words end the command."""
    (notice,) = parse(data, *more).notices
    with pytest.raises(Refusal) as caught:
        parse(data, *more, "--strict")
    assert caught.value.exit_code == USAGE
    assert caught.value.what == f"{notice} (refused under --strict)"


def test_strict_takes_what_cannot_matter(data: Path) -> None:
    """A flag that is passed over changes nothing, so it is no reason to refuse."""
    assert parse(data, "--overwrite_cache", "--strict").notices[0].startswith("--overwrite_cache")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--use_dora"], "DoRA"),
        (["--deepspeed", "ds.json"], "one card"),
        (["--push_to_hub", "true"], "nothing is uploaded"),
        (["--hf_hub_token", "secret"], "no token of yours"),
        (["--swanlab_api_key", "secret"], "no token of yours"),
        (["--weight_decay", "0.1"], "use 0, or leave it out"),
        (["--label_smoothing_factor", "0.1"], "plain cross entropy"),
        (["--quantization_method", "hqq"], "use bnb"),
        (["--finetuning_type", "freeze"], "use lora"),
    ],
)
def test_what_would_change_the_result_is_refused(data: Path, more: list[str], reason: str) -> None:
    """A flag of LLaMA-Factory that is not offered is never passed over in silence."""
    with pytest.raises(Refusal, match="is not offered") as caught:
        parse(data, *more)
    assert reason in caught.value.hint


@pytest.mark.parametrize(
    "more",
    [["--use_dora", "false"], ["--weight_decay", "0.0"], ["--adam_beta2", "0.999"],
     ["--quantization_method", "bnb"], ["--optim", "adamw_torch_fused"]],
)  # fmt: skip
def test_what_asks_for_what_is_done_anyway_is_taken(data: Path, more: list[str]) -> None:
    """A recipe may spell out the defaults."""
    assert parse(data, *more).notices == ()


def test_alpha_is_twice_the_rank_unless_given(data: Path) -> None:
    """As LLaMA-Factory has it, so that a recipe without it learns the same."""
    assert parse(data, "--lora_rank", "32").lora_alpha == 64
    assert parse(data, "--lora_rank", "32", "--lora_alpha", "16").lora_alpha == 16


def test_the_warmup_is_a_share_of_all_steps(data: Path) -> None:
    """Rounded up, as transformers does; a number of steps wins."""
    assert parse(data, "--warmup_ratio", "0.1").warmup(101) == 11
    assert parse(data, "--warmup_ratio", "0.1", "--warmup_steps", "3").warmup(101) == 3
    assert parse(data).warmup(101) == 0


@pytest.mark.parametrize(
    ("bits", "fixed", "auto"), [("4", 4, False), ("none", None, False), ("auto", None, True)]
)
def test_the_bits_may_be_left_to_the_card(
    data: Path, bits: str, fixed: int | None, *, auto: bool
) -> None:
    """`auto` is told apart from bf16, which is what no flag means."""
    config = parse(data, "--quantization_bit", bits)
    assert (config.quantization_bit, config.run.auto_bits) == (fixed, auto)


def test_a_word_without_a_flag_is_refused(data: Path) -> None:
    """It may be a value that lost its flag, or a recipe in the wrong place."""
    with pytest.raises(Refusal, match="belongs to no flag"):
        parse(data, "--lora_rank", "8", "16")


def test_a_description_beside_the_data_is_followed(data: Path) -> None:
    """`dataset_info.json` says what the columns are called; no flag has to."""
    info = {"mine": {"file_name": "train.jsonl", "columns": {"prompt": "q", "response": "a"}}}
    (data / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    needed = ["--model_name_or_path", "qwen/x", "--output_dir", "out", "--dataset_dir", str(data)]
    named = parse_train([*needed, "--dataset", "mine"])
    assert (named.dataset, named.row_format.prompt) == (data / "train.jsonl", "q")
    assert parse(data).row_format == named.row_format


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--lerning_rate", "--learning_rate"),
        ("--lora_alpah=3", "--lora_alpha"),
        ("--max_sample", "--max_samples"),
        ("--warmup_rato", "--warmup_ratio"),
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
