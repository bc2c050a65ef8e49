"""The peers, each through its own trainer, on the same samples in the same order.

LLaMA-Factory reads texts, so its samples are texts of about the same lengths; the tokens that it
made of them are counted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trainer.bench.turns import write_whole
from trainer.bench.work import LORA_RANK, text_rows
from trainer.template import IGNORED

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.bench.turns import Turns
    from trainer.bench.unit import Whole
    from trainer.bench.work import Variant, Work
    from trainer.template import Encoded

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE = 2e-4
NEVER = 10**9


def train_hf(variant: Variant, work: Work, model: Path, folder: Path, turns: Turns | Whole) -> None:
    """Transformers' Trainer with peft, bitsandbytes and Liger's kernels."""
    import torch
    from liger_kernel.transformers import (  # type: ignore[import-not-found]
        apply_liger_kernel_to_qwen2,
    )
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    options = variant.options
    base = AutoModelForCausalLM.from_pretrained(model, device_map={"": 0}, dtype=torch.bfloat16)
    apply_liger_kernel_to_qwen2(
        model=base, rope=True, rms_norm=True, swiglu=True,
        fused_linear_cross_entropy=True, cross_entropy=False,
    )  # fmt: skip
    how = {"use_reentrant": False}
    if options["checkpoint"]:
        base = prepare_model_for_kbit_training(
            base, use_gradient_checkpointing=True, gradient_checkpointing_kwargs=how
        )
    else:
        for parameter in base.parameters():
            parameter.requires_grad_(False)
    base.config.use_cache = False
    lora = LoraConfig(r=LORA_RANK, lora_alpha=16, target_modules=TARGETS, lora_dropout=0.0,
                      task_type="CAUSAL_LM")  # fmt: skip
    rows: list[Any] = list(work.samples())
    pack = options.get("pack", 0)
    if pack:
        rows = _packs(rows, pack)
    arguments = TrainingArguments(
        output_dir=str(folder / "output"),
        per_device_train_batch_size=1 if pack else options["bs"],
        gradient_accumulation_steps=options["ga"],
        gradient_checkpointing=options["checkpoint"],
        gradient_checkpointing_kwargs=how if options["checkpoint"] else None,
        optim="adamw_torch_fused",
        remove_unused_columns=False,
        **_common(turns),
    )
    trainer = Trainer(
        model=get_peft_model(base, lora),
        args=arguments,
        train_dataset=rows,
        data_collator=_flatten if pack else _pad,
        callbacks=[_callback(turns)],
    )
    _tell_tokens(folder, work, rows if pack else None, options["ga"])
    trainer.train()
    turns.trained(trainer)


def train_unsloth(
    variant: Variant, work: Work, model: Path, folder: Path, turns: Turns | Whole
) -> None:
    """Unsloth's model and its patched SFTTrainer, with its own checkpointing and optimizer."""
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]

    options = variant.options
    pack = options.get("pack", 0)
    loaded, tokenizer = FastLanguageModel.from_pretrained(
        str(model), max_seq_length=pack or 1024, load_in_4bit=True, dtype=torch.bfloat16,
        local_files_only=True,
    )  # fmt: skip
    loaded = FastLanguageModel.get_peft_model(
        loaded, r=LORA_RANK, lora_alpha=16, target_modules=TARGETS, lora_dropout=0, bias="none",
        use_gradient_checkpointing="unsloth", random_state=1,
    )  # fmt: skip
    samples = work.samples()
    rows = Dataset.from_list(
        [{"input_ids": list(s.token_ids), "labels": list(s.labels)} for s in samples]
    )
    packing = {"packing": True, "max_length": pack} if pack else {}
    told = {
        "output_dir": str(folder / "output"), "per_device_train_batch_size": options["bs"],
        "gradient_accumulation_steps": options["ga"], "optim": "adamw_8bit",
        "dataset_num_proc": 1, **packing, **_common(turns),
    }  # fmt: skip
    arguments = SFTConfig(**told)
    trainer = SFTTrainer(
        model=loaded, processing_class=tokenizer, train_dataset=rows, args=arguments,
        callbacks=[_callback(turns)],
    )  # fmt: skip
    count = len(trainer.train_dataset)
    tokens = sum(len(s.token_ids) for s in samples)
    facts: dict[str, Any] = {"rows": count, "samples": len(samples)}
    if pack:
        share = options["bs"] * options["ga"] / count
        facts |= {"tokens_per_step": tokens * share, "samples_per_step": len(samples) * share}
    write_whole(folder / "tokens.json", facts)
    trainer.train()
    turns.trained(trainer)


def train_llamafactory(
    variant: Variant, work: Work, model: Path, folder: Path, turns: Turns | Whole
) -> None:
    """LLaMA-Factory's own entry point, in its own order of samples left as they are."""
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found]
    from transformers import TrainerCallback

    options = variant.options
    rows = text_rows(work.samples())
    data = folder / "data"
    data.mkdir()
    (data / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    (data / "dataset_info.json").write_text(json.dumps({"train": {"file_name": "train.json"}}))
    pack = options.get("pack", 0)

    class Count(TrainerCallback):
        def on_train_begin(self, *_given: Any, **given: Any) -> None:
            ids = [row["input_ids"] for row in given["train_dataloader"].dataset]
            masks = [row["attention_mask"] for row in given["train_dataloader"].dataset]
            real = sum(sum(1 for m in mask if m) for mask in masks)
            share = options.get("bs", 1) * options["ga"] / len(ids)
            write_whole(
                folder / "tokens.json",
                {"tokens_per_step": real * share, "samples_per_step": len(rows) * share,
                 "rows": len(ids)},
            )  # fmt: skip

    arguments: dict[str, Any] = {
        "stage": "sft", "do_train": True, "model_name_or_path": str(model),
        "dataset_dir": str(data), "dataset": "train", "template": "qwen",
        "default_system": "assistant", "finetuning_type": "lora", "lora_target": "all",
        "lora_rank": LORA_RANK, "output_dir": str(folder / "output"), "overwrite_cache": True,
        "per_device_train_batch_size": options.get("bs", 1),
        "gradient_accumulation_steps": options["ga"], "cutoff_len": pack or 1024,
        "preprocessing_num_workers": 1, "disable_shuffling": True, "plot_loss": False,
        "lr_scheduler_type": "cosine", "learning_rate": RATE, "max_steps": turns.total_steps,
        "logging_steps": 1, "save_steps": NEVER, "bf16": True, "report_to": "none",
    }  # fmt: skip
    if pack:
        arguments |= {"packing": True, "neat_packing": True, "enable_liger_kernel": True}
    run_exp(arguments, callbacks=[Count(), _callback(turns)])


def _common(turns: Turns | Whole) -> dict[str, Any]:
    """What every trainer of transformers is told alike."""
    return {
        "max_steps": turns.total_steps, "learning_rate": RATE, "lr_scheduler_type": "cosine",
        "logging_steps": 1, "save_strategy": "no", "bf16": True, "report_to": [],
        "max_grad_norm": 1.0, "dataloader_num_workers": 0,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip


def _callback(turns: Turns | Whole) -> Any:
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_step_end(self, _arguments: Any, _state: Any, control: Any, **_named: Any) -> None:
            turns.step_done()
            if turns.enough():
                control.should_training_stop = True

    return Callback()


def _packs(samples: list[Encoded], pack: int) -> list[list[Encoded]]:
    """Packs of at most `pack` tokens, or of -`pack` samples, in the samples' order."""
    packs: list[list[Encoded]] = []
    current: list[Encoded] = []
    tokens = 0
    for sample in samples:
        full = len(current) >= -pack if pack < 0 else tokens + len(sample.token_ids) > pack
        if full:
            packs.append(current)
            current, tokens = [], 0
        current.append(sample)
        tokens += len(sample.token_ids)
    return [*packs, current]


def _flatten(rows: list[list[Encoded]]) -> dict[str, Any]:
    import torch

    (pack,) = rows
    ids = [token for sample in pack for token in sample.token_ids]
    labels = [label for sample in pack for label in sample.labels]
    positions = [place for sample in pack for place in range(len(sample.token_ids))]
    columns = {"input_ids": ids, "labels": labels, "position_ids": positions}
    return {name: torch.tensor([column]) for name, column in columns.items()}


def _pad(rows: list[Encoded]) -> dict[str, Any]:
    import torch

    longest = max(len(row.token_ids) for row in rows)

    def padded(columns: list[list[int]], filler: int) -> Any:
        return torch.tensor([[*c, *[filler] * (longest - len(c))] for c in columns])

    return {
        "input_ids": padded([list(row.token_ids) for row in rows], 0),
        "labels": padded([list(row.labels) for row in rows], IGNORED),
        "attention_mask": padded([[1] * len(row.token_ids) for row in rows], 0),
    }


def _tell_tokens(folder: Path, work: Work, packs: list[Any] | None, accumulation: int) -> None:
    if packs is None:
        write_whole(folder / "tokens.json", {"samples": len(work.samples())})
        return
    tokens = sum(len(sample.token_ids) for pack in packs for sample in pack)
    samples = sum(len(pack) for pack in packs)
    share = accumulation / len(packs)
    write_whole(
        folder / "tokens.json",
        {"tokens_per_step": tokens * share, "samples_per_step": samples * share},
    )
