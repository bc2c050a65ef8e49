from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trainer.adapter import find_adapter
from trainer.data import read_dataset
from trainer.merge import open_merge
from trainer.serve import load
from trainer.streamed import distance, log_probabilities
from trainer.template import IGNORED, encode

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("bits", [4, None])
def test_it_is_what_the_loaded_model_answers(
    tiny_model: Path, trained: dict[int | None, Path], few_rows: Path, bits: int | None
) -> None:
    """Layer by layer from the files = transformers + peft + bitsandbytes, to fp32's rounding."""
    import torch

    adapter = find_adapter(str(trained[bits]))
    answerer = load(tiny_model, adapter, quantised=bits == 4, double_quantization=True)
    rows = read_dataset(few_rows).samples[:5]
    samples = encode(rows, answerer.tokenizer, adapter.default_system)
    merge = open_merge(tiny_model, adapter, quantised=bits == 4)
    streamed = log_probabilities(tiny_model, merge.trained, samples)
    wanted = []
    with torch.inference_mode():
        for sample in samples:
            logits = answerer.model(input_ids=torch.tensor([sample.token_ids])).logits[0, :-1]
            wanted.append(logits[torch.tensor(sample.labels[1:]) != IGNORED].log_softmax(dim=1))
    assert streamed.shape[0] == sum(sample.supervised() for sample in samples)
    assert torch.allclose(streamed, torch.cat(wanted), atol=1e-4)


def test_tied_embeddings_are_the_output_layer_too(tiny_model: Path, tmp_path: Path) -> None:
    """As in Qwen2.5's smaller models: no lm_head in the files."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer import nf4
    from trainer.sample import Sample
    from trainer.tensorfile import TensorFiles

    tied = AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.float32, tie_word_embeddings=True
    ).eval()
    tied.lm_head.weight = tied.model.embed_tokens.weight
    tied.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    (sample,) = encode([Sample(1, "问", "答")], tokenizer, "")
    files = TensorFiles(tmp_path)
    assert "lm_head.weight" not in files
    streamed = log_probabilities(tmp_path, lambda name: nf4.read_weight(files, name), [sample])
    with torch.inference_mode():
        logits = tied(input_ids=torch.tensor([sample.token_ids])).logits[0, :-1]
    wanted = logits[torch.tensor(sample.labels[1:]) != IGNORED].log_softmax(dim=1)
    assert torch.allclose(streamed, wanted, atol=1e-4)


def test_the_distance_is_kl_in_nats() -> None:
    """Zero to itself; -log p where one is sure and the other gives it p; first choices counted."""
    import torch

    sure = torch.tensor([[1.0, 1e-30], [1.0, 1e-30]]).log()
    coin = torch.tensor([[0.5, 0.5], [0.4, 0.6]]).log()
    same: Any = distance(sure, sure)
    assert (same.mean_kl, same.same_first_percent, same.positions) == (0, 100, 2)
    other = distance(sure, coin)
    assert other.max_kl == pytest.approx(-torch.tensor(0.4).log().item())
    assert other.mean_kl == pytest.approx((torch.tensor(0.2).log() / -2).item())
    assert other.same_first_percent == 50
