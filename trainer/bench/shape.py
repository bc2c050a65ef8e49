"""A model of Qwen2.5-7B's shape with random weights, in NF4 as bitsandbytes saves it, or in bf16.

Random weights cost what trained ones cost, and nothing has to be downloaded. Each matrix is made
(and quantised) by itself, so the 15 GB of the whole are never in one place.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trainer.make_model import make_tokenizer, tokenizer_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.data import Sample

SEED = 0
DEVIATION = 0.02
QWEN_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
"""config.json of Qwen/Qwen2.5-7B-Instruct, with the numbers that our tokenizer's tokens have."""

TINY = {
    "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 2000,
}  # fmt: skip
"""Instead of QWEN_7B's: a model on which a stage is seen to work within seconds, on a CPU."""
QUANTIZATION = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
}


def make(
    directory: Path,
    samples: Sequence[Sample],
    config: dict[str, Any],
    device: Any,
    *,
    quantised: bool = True,
) -> None:
    """Write the model and a tokenizer trained on `samples`; nothing if it is there already."""
    import torch
    from bitsandbytes import functional
    from safetensors.torch import save_file

    if (directory / "config.json").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator(device=device).manual_seed(SEED)

    def normal(*shape: int) -> Any:
        weights = torch.empty(shape, dtype=torch.bfloat16, device=device)
        return weights.normal_(0.0, DEVIATION, generator=generator)

    def matrix(name: str, *shape: int) -> dict[str, Any]:
        if not quantised:
            return {name: normal(*shape)}
        packed, quant_state = functional.quantize_4bit(
            normal(*shape), blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        parts = quant_state.as_dict(packed=True)
        return {name: packed, **{f"{name}.{key}": value for key, value in parts.items()}}

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    size = hidden // config["num_attention_heads"]
    keys = size * config["num_key_value_heads"]
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    index: dict[str, str] = {}

    def write(file: str, tensors: dict[str, Any]) -> None:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, file))

    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        tensors: dict[str, Any] = {
            f"{prefix}input_layernorm.weight": ones,
            f"{prefix}post_attention_layernorm.weight": ones.clone(),
        }
        for name, width in (("q", hidden), ("k", keys), ("v", keys)):
            tensors |= matrix(f"{prefix}self_attn.{name}_proj.weight", width, hidden)
            tensors[f"{prefix}self_attn.{name}_proj.bias"] = normal(width)
        tensors |= matrix(f"{prefix}self_attn.o_proj.weight", hidden, hidden)
        tensors |= matrix(f"{prefix}mlp.gate_proj.weight", inner, hidden)
        tensors |= matrix(f"{prefix}mlp.up_proj.weight", inner, hidden)
        tensors |= matrix(f"{prefix}mlp.down_proj.weight", hidden, inner)
        write(f"layer-{layer}.safetensors", tensors)
    words = config["vocab_size"]
    write("embedding.safetensors", {"model.embed_tokens.weight": normal(words, hidden)})
    head = {"model.norm.weight": ones, "lm_head.weight": normal(words, hidden)}
    write("head.safetensors", head)
    told = {**config, **({"quantization_config": QUANTIZATION} if quantised else {})}
    _write_beside(directory, samples, told, index)


def _write_beside(
    directory: Path, samples: Sequence[Sample], config: dict[str, Any], index: dict[str, str]
) -> None:
    """The tokenizer, the index of the weights, and config.json last: then the model is whole."""
    total = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    tokenizer, _words = make_tokenizer(samples, 2000)
    (directory / "tokenizer.json").write_bytes(tokenizer)
    documents = {
        "tokenizer_config.json": tokenizer_config(
            {"max_positions": config["max_position_embeddings"]}
        ),
        "generation_config.json": {"eos_token_id": 2, "pad_token_id": 0},
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": index},
        "config.json": config,
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=2, ensure_ascii=False)
        (directory / name).write_text(text, encoding="utf-8")
