"""How the decoder's layers run: what is kept for the backward pass, and whether they are compiled.

None of it changes what is computed, only what it costs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKPOINTING = ("none", "selective", "full")
"""What the backward pass finds, from most memory to least: everything; the results of the frozen
4-bit products and of attention; the layers' inputs alone."""

KEPT_OPERATORS = (
    "bitsandbytes::gemm_4bit",
    "torch_attn::_varlen_attn",
    "scaled_dot_product",
    "flash_attention",
    "cudnn_attention",
    "flex_attention",
)
"""Kept under `selective`. The backward pass of a frozen product needs its weight alone, so with
the results kept, what is computed again is norms, rotations, SiLU and LoRA's thin products."""

FROZEN_PRODUCTS = ("aten::mm", "aten::addmm")
"""Without quantisation the frozen products are these; LoRA's own are thin on one side."""
THIN = 64

COMPILED_SHAPES_MAX = 16


def arrange(model: Any, checkpointing: str, *, compiled: bool, random: bool) -> None:
    """Let the layers of `model` (a peft model) run so, whatever was arranged before.

    `random`: whether they draw random numbers (dropout), which must then be drawn again alike.
    Done on each layer's `forward`, outside whatever transformers does: its own checkpointing
    wraps at another place in each version.
    """
    causal = model.get_base_model()
    decoder = causal.get_decoder()
    if compiled:
        _prepare_compiler()
    for layer in decoder.layers:
        layer.__dict__.pop("forward", None)
        forward = layer.forward
        if checkpointing == "selective":
            # Inside the compiler: kept results of compiled code, seen from outside, are buffers
            # that it writes over in place, and the gradients come out wrong without a word.
            forward = _checkpointed(forward, selective=True, random=random)
        if compiled:
            forward = _compile(forward)
        if checkpointing == "full":
            forward = _checkpointed(forward, selective=False, random=random)
        if compiled or checkpointing != "none":
            layer.forward = forward
    handle = getattr(decoder, "_first_layer_hook", None)
    if handle is not None:
        handle.remove()
    # The first layer's input needs no gradient, the others' do: unlike inputs compile twice.
    decoder._first_layer_hook = (  # noqa: SLF001 - a place of our own on an object we hold
        decoder.get_input_embeddings().register_forward_hook(_require_gradient)
        if compiled
        else None
    )


def require_kept_operator(model: Any) -> None:
    """Return if the 4-bit product is the operator that `selective` keeps; else AssertionError.

    It got that name in bitsandbytes 0.50; under another one, selective would quietly be full.
    """
    import bitsandbytes
    import torch

    quantised = any(isinstance(m, bitsandbytes.nn.Linear4bit) for m in model.modules())
    if quantised and not hasattr(torch.ops.bitsandbytes, "gemm_4bit"):
        raise AssertionError("selective checkpointing needs bitsandbytes 0.50 or newer")


def _require_gradient(_module: Any, _arguments: Any, output: Any) -> None:
    if output.is_leaf:
        output.requires_grad_(True)


def _prepare_compiler() -> None:
    """Running out of the limit must be an error: a silent fall to eager code costs by the hour."""
    import torch

    config = torch._dynamo.config  # noqa: SLF001 - where torch keeps these settings
    config.recompile_limit = max(config.recompile_limit, 2 * COMPILED_SHAPES_MAX)
    config.fail_on_recompile_limit_hit = True


def _compile(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    compiled: Callable[..., Any] = torch.compile(forward, dynamic=False)
    return compiled


def _checkpointed(
    forward: Callable[..., Any], *, selective: bool, random: bool
) -> Callable[..., Any]:
    from torch.utils.checkpoint import (
        CheckpointPolicy,
        checkpoint,
        create_selective_checkpoint_contexts,
    )

    def policy(_context: Any, operator: Any, *arguments: Any, **_options: Any) -> Any:
        name = str(operator).replace(".", "::", 1)
        kept = any(part in name for part in KEPT_OPERATORS) and "backward" not in name
        if name.startswith(FROZEN_PRODUCTS):
            kept = min(arguments[-1].shape) >= THIN
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": random}
    if selective:
        how["context_fn"] = contexts

    @functools.wraps(forward)
    def run(*arguments: Any, **options: Any) -> Any:
        return checkpoint(forward, *arguments, **how, **options)

    return run
