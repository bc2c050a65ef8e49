from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trainer import nf4
from trainer.tensorfile import ShardWriter, TensorFiles

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


def weight(dtype: str = "float32") -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 128, generator=generator).to(getattr(torch, dtype))


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_is_what_a_quantised_layer_computes_with(double: bool, dtype: str) -> None:
    """The same numbers as bitsandbytes' own layer holds, to the bit."""
    import torch
    from bitsandbytes import functional, nn

    layer = nn.Linear4bit(
        128, 64, bias=False, compress_statistics=double, quant_type="nf4",
        compute_dtype=getattr(torch, dtype),
    )  # fmt: skip
    layer.weight = nn.Params4bit(
        weight(dtype), requires_grad=False, compress_statistics=double, quant_type="nf4"
    )
    layer = layer.to("cpu")
    held = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(nf4.round_trip(weight(dtype), double=double), held)


@pytest.mark.parametrize("double", [True, False])
def test_parts_survive_the_disk(tmp_path: Path, double: bool) -> None:
    """What is read back is the weight that was quantised; a plain one is read as it is."""
    import torch

    name = "model.layers.0.mlp.up_proj.weight"
    with ShardWriter(tmp_path, 10**9) as writer:
        for suffix, part in nf4.quantise(weight(), double=double).items():
            writer.add(name + suffix, part)
        writer.add("model.norm.weight", weight())
    files = TensorFiles(tmp_path)
    assert torch.equal(nf4.read_weight(files, name), nf4.round_trip(weight(), double=double))
    assert torch.equal(nf4.read_weight(files, "model.norm.weight"), weight())
    assert [n for n in files.names() if not nf4.is_part(n)] == [name, "model.norm.weight"]


def test_only_the_decoders_products_are_quantised() -> None:
    """Embeddings, norms, biases and the output layer stay, as `load_in_4bit` leaves them."""
    assert nf4.is_linear("model.layers.27.self_attn.q_proj.weight")
    assert nf4.is_linear("model.layers.0.mlp.down_proj.weight")
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
                 "model.layers.0.self_attn.q_proj.bias",
                 "model.layers.0.input_layernorm.weight"):  # fmt: skip
        assert not nf4.is_linear(name)
