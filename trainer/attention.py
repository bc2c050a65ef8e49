"""Attention within segments: no sample of a pack sees another, at the cost of the samples alone.

Three ways to the same numbers, the best first:

`varlen`  torch.nn.attention.varlen: the flash kernel told where each segment begins. Work and
          memory are those of the samples. Needs a card of compute capability 8.0 or newer.
`flex`    flex_attention with a block-sparse mask: blocks between samples are never computed.
`sdpa`    a mask of all pairs. Its work grows with the square of the pack, so packs stay short.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ("varlen", "flex", "sdpa")
SDPA_BUDGET_TOKENS = 4096
"""With longer packs a mask of all pairs was measured to lose more than packing wins."""

_FLASH_CAPABILITY = (8, 0)
_VARLEN = "segment_varlen"
_NAMES = {"varlen": _VARLEN, "flex": "flex_attention", "sdpa": "sdpa"}


def best_for(device: Any) -> str:
    """The best of KINDS that this torch has and this device can run."""
    if device.type != "cuda":
        return "sdpa"
    import torch

    if _varlen_attn() and torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY:
        return "varlen"
    return "flex"


def use(model: Any, kind: str) -> None:
    """Let every layer of `model` (a transformers model) attend by `kind` from now on."""
    if kind == "varlen":
        from transformers import AttentionInterface

        AttentionInterface.register(_VARLEN, _varlen_forward)
    model.set_attn_implementation(_NAMES[kind])


def arguments(kind: str, batch: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """What the decoder must be given so that it attends within segments.

    `batch["boundaries"]`: int32, where segments begin, then the end, which may be repeated.
    `longest`: at least as many tokens as the longest segment has.
    """
    boundaries = batch["boundaries"]
    if kind == "varlen":
        return {"cu_seq_lens_q": boundaries, "max_length_q": longest}
    if kind == "flex":
        return {"attention_mask": _block_mask(_segment_of_each(batch))}
    return {"attention_mask": _all_pairs(_segment_of_each(batch))}


def _segment_of_each(batch: Mapping[str, Any]) -> Any:
    """The number of the segment that each token of the pack belongs to."""
    import torch

    places = torch.arange(batch["input_ids"].shape[1], device=batch["boundaries"].device)
    return torch.bucketize(places, batch["boundaries"][1:].long(), right=True)


def _all_pairs(segment: Any) -> Any:
    """[1, 1, tokens, tokens]: True where the token of the row may see the one of the column."""
    same = segment[:, None] == segment[None, :]
    return same.tril()[None, None]


def _block_mask(segment: Any) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_batch: Any, _head: Any, row: Any, column: Any) -> Any:
        return (segment[row] == segment[column]) & (row >= column)

    tokens = segment.shape[0]
    return create_block_mask(visible, None, None, tokens, tokens, device=segment.device)


@lru_cache(maxsize=1)
def _varlen_attn() -> tuple[Any, dict[str, Any]] | None:
    """(varlen_attn, the options that make it causal and let heads share keys); None without it.

    The options' names changed between torch 2.10 and 2.13.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters
    causal = {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}
    shared = {"enable_gqa": True} if "enable_gqa" in names else {}
    return varlen_attn, {**causal, **shared}


def _varlen_forward(
    _module: Any,
    query: Any,
    key: Any,
    value: Any,
    _attention_mask: Any,
    *,
    cu_seq_lens_q: Any,
    max_length_q: int,
    scaling: float | None = None,
    **_options: Any,
) -> tuple[Any, None]:
    """As transformers calls attention: [1, heads, tokens, size] in, [1, tokens, heads, size] out.

    Its own scale is 1/sqrt(size), which is Qwen2's; another one would be a silent error.
    """
    found = _varlen_attn()
    size = query.shape[-1]
    if found is None or (scaling is not None and abs(scaling * size**0.5 - 1) > 1e-6):
        raise AssertionError("varlen_attn is not there, or not with this model's scale")
    varlen_attn, options = found
    tokens = [states[0].transpose(0, 1) for states in (query, key, value)]
    out = varlen_attn(*tokens, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, **options)
    return out.unsqueeze(0), None
