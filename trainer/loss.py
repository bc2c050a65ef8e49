"""Batches, and the loss: the sum over a batch's supervised tokens, computed for those alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.template import IGNORED, Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence


def pad_batch(samples: Sequence[Encoded], pad_id: int, device: Any) -> dict[str, Any]:
    """`input_ids` and `labels`, each [samples, longest], padded on the right.

    There is no attention mask: a token attends only to those on its left, so padding on the right
    is seen by padding alone, and attention without a mask may take its faster kernels.
    """
    import torch

    longest = max(len(sample.token_ids) for sample in samples)

    def rows(values: Sequence[Sequence[int]], filler: int) -> Any:
        padded = [[*row, *[filler] * (longest - len(row))] for row in values]
        return torch.tensor(padded, device=device)

    return {
        "input_ids": rows([sample.token_ids for sample in samples], pad_id),
        "labels": rows([sample.labels for sample in samples], IGNORED),
    }


def supervised_loss_sum(model: Any, batch: dict[str, Any]) -> Any:
    """The cross entropy summed over the supervised tokens; divide by the whole step's number.

    The output layer sees only the positions that predict a supervised token: with Qwen2.5's
    152,064 words its logits would otherwise be the largest thing in memory.
    """
    from torch.nn import functional

    causal = model.get_base_model()
    hidden = causal.get_decoder()(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
    targets = batch["labels"][:, 1:]
    supervised = targets != IGNORED
    logits = causal.get_output_embeddings()(hidden[:, :-1][supervised])
    return functional.cross_entropy(logits.float(), targets[supervised], reduction="sum")
