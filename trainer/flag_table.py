"""LLaMA-Factory's and transformers' flags that `train` knows but has no use for, each with why.

A flag that cannot matter here is passed over and named; one that would change the result is
refused unless it asks for what is done anyway. A person who copies a recipe loses nothing unseen.
"""

from __future__ import annotations

FALSE_WORDS = frozenset({"false", "0", "0.0", "no", "none", "null", ""})

PASSED_OVER = {
    "overwrite_cache": "nothing is cached between runs",
    "overwrite_output_dir": "a run goes on from its newest valid checkpoint, none is overwritten",
    "plot_loss": "training_loss.png is drawn anyway, where matplotlib is there",
    "ddp_timeout": "one card trains, nothing waits for another",
    "ddp_find_unused_parameters": "one card trains",
    "preprocessing_num_workers": "tokenising is threaded by itself",
    "preprocessing_batch_size": "all samples are tokenised at once",
    "dataloader_num_workers": "the samples are in memory",
    "dataloader_pin_memory": "the samples are in memory",
    "dataloader_prefetch_factor": "the samples are in memory",
    "report_to": "the numbers are in trainer_log.jsonl; see --tensorboard and --use_swanlab",
    "logging_dir": "the log is in --output_dir",
    "logging_first_step": "--logging_steps says which steps are logged",
    "log_level": "all that is said is said once",
    "run_name": "--output_dir names the run",
    "include_num_input_tokens_seen": "tokens a second are in every line of the log",
    "include_tokens_per_second": "tokens a second are in every line of the log",
    "trust_remote_code": "code that comes with a model is never run",
    "use_fast_tokenizer": "the fast tokenizer is the only one",
    "low_cpu_mem_usage": "the model is loaded tensor by tensor anyway",
    "flash_attn": "the attention is chosen for the card at hand",
    "use_unsloth": "this is another trainer",
    "use_unsloth_gc": "what is recomputed is chosen for the card at hand",
    "enable_liger_kernel": "the loss sees the trained tokens alone, without that package",
    "use_reentrant_gc": "recomputing is never re-entrant",
    "gradient_checkpointing": "what is recomputed is chosen for the card at hand",
    "auto_find_batch_size": "the micro-batch is chosen for the card at hand",
    "upcast_layernorm": "norms compute in fp32 anyway",
    "upcast_lmhead_output": "the loss is computed in fp32 anyway",
    "group_by_length": "padding costs next to nothing here, and the order stays the sampler's",
    "remove_unused_columns": "only the columns that are named are read",
    "save_safetensors": "nothing else is written",
    "save_only_model": "a checkpoint always holds what a resume needs",
    "save_strategy": "--save_steps and --save_interval_s say when",
    "tf32": "nothing is computed in tf32",
    "quantization_device_map": "the model is on one card",
    "print_param_status": "what is trained is told at the start",
    "per_device_eval_batch_size": "it changes no number",
    "prediction_loss_only": "it changes no number",
    "half_precision_backend": "bf16 needs none",
    "use_cpu": "the CPU is used where there is no GPU",
    "do_eval": "held-out samples (--val_size) are judged as the run goes",
    "logging_nan_inf_filter": "a loss that is no number ends the run",
    "eval_strategy": "held-out samples (--val_size) are judged as the run goes",
    "evaluation_strategy": "held-out samples (--val_size) are judged as the run goes",
    "eval_accumulation_steps": "it changes no number",
    "logging_strategy": "--logging_steps says when",
    "torch_compile": "what is compiled is chosen for the card at hand",
    "packing": "how samples are batched is chosen here, and never lets one see another",
    "neat_packing": "how samples are batched is chosen here, and never lets one see another",
    "optim_target_modules": "it is of other optimizers",
}

# Taken only with one of these values, which are what is done; the reason stands behind.
FIXED: dict[str, tuple[tuple[str, ...], str]] = {
    "weight_decay": (("0", "0.0"), "LoRA weights are trained without weight decay"),
    "adam_beta1": (("0.9",), "AdamW runs with its usual constants"),
    "adam_beta2": (("0.999",), "AdamW runs with its usual constants"),
    "adam_epsilon": (("1e-8", "1e-08", "1.0e-8"), "AdamW runs with its usual constants"),
    "quantization_method": (("bnb", "bitsandbytes", "BNB"), "NF4 of bitsandbytes is what is there"),
    "quantization_type": (("nf4",), "NF4 is the better of bitsandbytes' two (QLoRA, table 4)"),
    "lora_bias": (("none",), "biases stay the base's"),
    "label_smoothing_factor": ((), "the loss is plain cross entropy"),
    "mix_strategy": (("concat",), "one data set is trained"),
    "infer_backend": (("huggingface", "hf"), "answers come from transformers"),
}

REFUSED = {
    "use_dora": "DoRA is not offered: leave it out for LoRA",
    "use_rslora": "rank-stabilised scaling is not offered: set --lora_alpha instead",
    "pissa_init": "PiSSA is not offered: leave it out for LoRA",
    "loraplus_lr_ratio": "LoRA+ is not offered: one learning rate for all",
    "additional_target": "only LoRA weights are trained: an adapter stays small",
    "lora_bias_trainable": "biases stay the base's",
    "create_new_adapter": "give another --output_dir to begin a new adapter",
    "train_on_prompt": "the questions are never trained: the answers are what is to be learnt",
    "mask_history": "all answers of a conversation are trained: give a message weight 0 instead",
    "streaming": "a data set is judged whole before a yuan is spent: give it as a file",
    "deepspeed": "one card trains: rent one that is large enough",
    "fsdp": "one card trains: rent one that is large enough",
    "shift_attn": "attention is the model's own",
    "rope_scaling": "the model's own positions are kept",
    "neftune_noise_alpha": "noise on the embeddings is not offered",
    "use_galore": "it is for full training, which is not offered",
    "use_badam": "it is for full training, which is not offered",
    "use_apollo": "it is for full training, which is not offered",
    "use_llama_pro": "new layers are not offered: use --finetuning_type lora",
    "use_dft_loss": "the loss is plain cross entropy",
    "resize_vocab": "the vocabulary stays the model's",
    "add_tokens": "the vocabulary stays the model's: an adapter could not hold new words",
    "add_special_tokens": "the vocabulary stays the model's: an adapter could not hold new words",
    "push_to_hub": "nothing is uploaded from a rented machine",
    "hub_token": "no token of yours belongs on a rented machine",
    "hf_hub_token": "no token of yours belongs on a rented machine",
    "ms_hub_token": "no token of yours belongs on a rented machine",
    "swanlab_api_key": "no token of yours belongs in a command: --swanlab_mode offline needs none",
    "eval_dataset": "give --val_size: samples are held out of the one data set",
    "load_best_model_at_end": "adapter/ is what the run ends with: its checkpoints stay beside it",
    "data_seed": "--seed is of the order of the samples too",
    "do_predict": "`python -m trainer chat --interview FILE` judges the answers",
    "predict_with_generate": "`python -m trainer chat --interview FILE` judges the answers",
    "tokenized_path": "tokenising takes seconds, and is done anew each time",
    "mixture_of_depths": "it is not offered",
    "ref_model": "it is for other stages than sft",
    "reward_model": "it is for other stages than sft",
    "resume_from_checkpoint": "a run started again goes on from its newest valid checkpoint",
    "image_max_pixels": "only text is trained here",
    "media_dir": "only text is trained here",
}
"""Refused where they are switched on; `false`, `0` and `null` are taken in silence."""

FULL_TRAINING = (
    "use lora: full training of a 7B model needs about 120 GB of GPU memory "
    "(16 bytes a weight: weights, gradients, Adam), LoRA fits one 24 GB card"
)
FINETUNING_TYPES = {
    "full": FULL_TRAINING,
    "freeze": "use lora: training whole layers needs their gradients and Adam states in memory",
    "oft": "use lora: it is what servers load",
}
OPTIMIZERS = ("adamw_torch", "paged_adamw_8bit")
OPTIMIZERS_LIKE = {
    "adamw_torch_fused": ("adamw_torch", False),  # fused on a GPU anyway
    "adamw_hf": ("adamw_torch", False),
    "adamw": ("adamw_torch", False),
    "adamw_8bit": ("paged_adamw_8bit", True),
    "adamw_bnb_8bit": ("paged_adamw_8bit", True),
    "paged_adamw": ("adamw_torch", True),
    "paged_adamw_32bit": ("adamw_torch", True),
}
"""The optimizer that is meant, and whether it differs enough to be said."""

QWEN1_TARGETS = {"c_attn": "q_proj,k_proj,v_proj", "c_proj": "o_proj,down_proj",
                 "w1": "up_proj", "w2": "gate_proj"}  # fmt: skip
TEMPLATES = ("qwen", "qwen2", "qwen2.5", "qwen2_5", "chatml")
"""Names under which ChatML as Qwen2.5 has it is known; the first is LLaMA-Factory's."""
