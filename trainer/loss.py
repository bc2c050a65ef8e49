"""The loss: summed over the supervised tokens of a pack, and computed for those alone."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trainer.template import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.packing import Pack, Shape

CHUNK_ROWS = 512
"""With Qwen2.5's 152,064 words, 512 rows of logits in fp32 are 0.3 GiB; a whole pack's would be
the largest thing in memory."""


def numbers(pack: Pack, segments: int) -> list[int]:
    """All of the pack in one list, so that one copy takes it to the card; `views` undoes it.

    The boundaries are filled up with the end to `segments` + 1, so that the size is the shape's.
    """
    end = [pack.shape.tokens] * (segments + 1 - len(pack.boundaries))
    return [*pack.token_ids, *pack.positions, *pack.rows, *pack.targets, *pack.boundaries, *end]


def views(flat: Any, shape: Shape) -> dict[str, Any]:
    """`input_ids` and `position_ids` [1, tokens], `rows`, `targets`, `boundaries` (int32)."""
    import torch

    tokens, rows = shape.tokens, shape.rows
    parts = flat.split([tokens, tokens, rows, rows, flat.shape[0] - 2 * tokens - 2 * rows])
    return {
        "input_ids": parts[0].unsqueeze(0),
        "position_ids": parts[1].unsqueeze(0),
        "rows": parts[2],
        "targets": parts[3],
        "boundaries": parts[4].to(torch.int32),
    }


def to_device(pack: Pack, segments: int, device: Any) -> Any:
    """The pack's `numbers` on `device`, without waiting for the card."""
    import torch

    flat = torch.tensor(numbers(pack, segments))
    return flat.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else flat


def supervised_loss_sum(model: Any, batch: Mapping[str, Any]) -> Any:
    """The cross entropy summed over the pack's supervised tokens; divide by the step's number.

    `batch`: what `views` gives, and `attention`, what the decoder needs to keep samples apart.
    The output layer sees only the rows that predict a supervised token.
    """
    causal = model.get_base_model()
    hidden = causal.get_decoder()(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        use_cache=False,
        **batch["attention"],
    ).last_hidden_state
    rows = hidden[0].index_select(0, batch["rows"])
    return cross_entropy_sum(rows, causal.get_output_embeddings().weight, batch["targets"])


def cross_entropy_sum(rows: Any, weight: Any, targets: Any, chunk_rows: int = CHUNK_ROWS) -> Any:
    """Sum over rows of the cross entropy of softmax(rows · weightᵀ) against `targets`.

    The logits are made `chunk_rows` at a time and the gradient at once with them, so that they
    are never kept nor computed twice. That needs `weight` frozen, as it is under LoRA. Rows whose
    target is IGNORED count for nothing.
    """
    if weight.requires_grad:
        raise AssertionError("the output layer is trained; its gradient is not computed here")
    import torch

    wanted = torch.is_grad_enabled() and rows.requires_grad
    return _chunked_cross_entropy().apply(rows, weight, targets, chunk_rows, wanted)


@lru_cache(maxsize=1)
def _chunked_cross_entropy() -> Any:
    """The autograd function, made at the first call: this module loads without torch."""
    import torch

    class ChunkedCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, rows: Any, weight: Any, targets: Any, chunk_rows: int, wanted: Any
        ) -> Any:
            total = torch.zeros((), dtype=torch.float32, device=rows.device)
            gradient = torch.empty_like(rows) if wanted else None
            for start in range(0, rows.shape[0], chunk_rows):
                target = targets[start : start + chunk_rows]
                kept = (target != IGNORED).unsqueeze(1)
                place = target.clamp(min=0).unsqueeze(1)
                part = rows[start : start + chunk_rows].to(weight.dtype)
                logits = (part @ weight.t()).float()
                normaliser = logits.logsumexp(dim=1, keepdim=True)
                total += ((normaliser - logits.gather(1, place)) * kept).sum()
                if gradient is not None:
                    slope = logits.sub_(normaliser).exp_()
                    slope.scatter_add_(1, place, torch.full_like(normaliser, -1.0))
                    slope *= kept
                    gradient[start : start + chunk_rows] = slope.to(weight.dtype) @ weight
            ctx.save_for_backward(gradient)
            return total

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            (gradient,) = ctx.saved_tensors
            return gradient * upstream.to(gradient.dtype), None, None, None, None

    return ChunkedCrossEntropy
