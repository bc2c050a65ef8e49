"""NF4 of bitsandbytes, a tensor at a time: quantise, dequantise, and how a model's files hold it.

The layout is the one that transformers reads and writes for `load_in_4bit` models, so that what
is written here loads with `AutoModelForCausalLM.from_pretrained` and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.tensorfile import TensorFiles

BLOCK = 64
STATE = "quant_state.bitsandbytes__nf4"
_LINEAR = re.compile(r"model\.layers\.\d+\.\w+\.\w+_proj\.weight")


def is_linear(name: str) -> bool:
    """Whether a tensor is one of the decoder's products, which alone are in 4 bits.

    Embeddings and the output layer stay in bf16, as `load_in_4bit` leaves them.
    """
    return bool(_LINEAR.fullmatch(name))


def quantise(weight: Any, *, double: bool) -> dict[str, Any]:
    """The tensors that stand for `weight` (its dtype is kept in the state), by suffix."""
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight, blocksize=BLOCK, compress_statistics=double, quant_type="nf4"
    )
    parts = state.as_dict(packed=True)
    return {"": packed, **{f".{key}": value for key, value in parts.items()}}


def dequantise(parts: dict[str, Any]) -> Any:
    """The weight that the tensors stand for, in the dtype of their state."""
    from bitsandbytes import functional

    state = functional.QuantState.from_dict(
        {key.removeprefix("."): value for key, value in parts.items() if key}, device="cpu"
    )
    return functional.dequantize_4bit(parts[""], state)


def round_trip(weight: Any, *, double: bool) -> Any:
    """What a base in NF4 computes with in the place of `weight`."""
    return dequantise(quantise(weight, double=double))


def read_weight(files: TensorFiles, name: str) -> Any:
    """A weight from files that may hold it in NF4."""
    if f"{name}.{STATE}" not in files:
        return files.read(name)
    suffixes = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", STATE)
    names = {f".{suffix}": f"{name}.{suffix}" for suffix in suffixes}
    parts = {suffix: files.read(part) for suffix, part in names.items() if part in files}
    return dequantise({"": files.read(name), **parts})


def is_part(name: str) -> bool:
    """Whether a tensor only describes how another one is quantised."""
    return bool(re.search(r"_proj\.weight\.", name))


def quantization_config(*, double: bool, dtype: str) -> dict[str, Any]:
    """What config.json says of a model with such weights."""
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
    }
