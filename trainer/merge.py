"""A base and an adapter, tensor by tensor: what was trained, and what a merge makes of it.

Three models that are nearly one: the *trained* one (the base as training saw it, in NF4 or bf16,
and the adapter beside it in fp32), the adapter merged into the *original* base, and merged into the
*dequantised* one. A merge is rounded to bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer import nf4
from trainer.exits import USAGE, Refusal
from trainer.tensorfile import TensorFiles

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.adapter import Adapter

Basis = Literal["original", "dequantized"]
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Merge:
    """A base's files and the adapter's changes to them."""

    base: TensorFiles
    changes: dict[str, tuple[Any, Any]]
    """(B, A) in fp32, scaled, by the name of the weight that they change."""
    quantised: bool
    """Whether training saw the base in NF4."""
    double: bool
    in_fp32: bool = False
    """Whether training computed in fp32, as it does on a CPU; on a GPU it is bf16."""

    def trained(self, name: str) -> Any:
        """The weight that training computed with; where the adapter changes it, in fp32."""
        return self._changed(name, self._seen(name))

    def merged(self, name: str, basis: Basis) -> Any:
        """The weight of the merged model, in bf16."""
        import torch

        weight = self._seen(name) if basis == "dequantized" else nf4.read_weight(self.base, name)
        return self._changed(name, weight).to(torch.bfloat16)

    def names(self) -> list[str]:
        """The weights of the merged model, in the order of the base's files."""
        return [name for name in self.base.names() if not nf4.is_part(name)]

    def _seen(self, name: str) -> Any:
        weight = nf4.read_weight(self.base, name)
        if not (self.quantised and nf4.is_linear(name)) or f"{name}.{nf4.STATE}" in self.base:
            return weight
        weight = weight.float() if self.in_fp32 else weight
        return nf4.round_trip(weight, double=self.double)

    def _changed(self, name: str, weight: Any) -> Any:
        """`weight` itself where nothing changes it: a copy of the embeddings is 2 GB in fp32."""
        if name not in self.changes:
            return weight
        up, down = self.changes[name]
        return weight.float().addmm_(up, down)


def open_merge(model: Path, adapter: Adapter, *, quantised: bool) -> Merge:
    """The base and the adapter's changes; raises Refusal if they do not belong together."""
    base = TensorFiles(model)
    changes = _changes(adapter)
    for name, (up, down) in changes.items():
        shape = (up.shape[0], down.shape[1])
        place = base.places.get(name)
        quantised_already = f"{name}.{nf4.STATE}" in base
        if place is None or (not quantised_already and place.shape != shape):
            what = f"{name} of shape {shape} is not in the model"
            hint = "give the model that it was trained on"
            raise Refusal(USAGE, what, where=str(adapter.path), hint=hint)
    in_fp32 = adapter.semantics.get("compute_dtype") == "torch.float32"
    return Merge(base, changes, quantised, adapter.double_quantization, in_fp32)


def _changes(adapter: Adapter) -> dict[str, tuple[Any, Any]]:
    config = adapter.config()
    unusual = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save",
               "fan_in_fan_out", "lora_bias")  # fmt: skip
    for key in unusual:
        if config.get(key):
            hint = "merge it with peft's merge_and_unload"
            raise Refusal(
                USAGE, f"it has {key}, not merged here", where=str(adapter.path), hint=hint
            )
    scale = config["lora_alpha"] / config["r"]
    files = TensorFiles(adapter.path)
    changes = {}
    for name in files.names():
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name.removesuffix(".lora_A.weight")
        up = files.read(f"{stem}.lora_B.weight").float() * scale
        changes[f"{stem.removeprefix(_PREFIX)}.weight"] = (up, files.read(name).float())
    return changes
