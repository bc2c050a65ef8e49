from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from trainer import tokens
from trainer.data import read_dataset
from trainer.exits import USAGE, Refusal
from trainer.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path


def test_the_estimate_counts_characters_and_the_template() -> None:
    """0.6 token for a Chinese character, 0.3 for another, 10 a turn, 5 and its text the system."""
    (length,) = tokens.estimate([Sample(1, "问" * 100, "b" * 100)], "s" * 10)
    assert length == tokens.Length(60 + 30 + 10 + 5 + 3, 31)


def test_an_untrained_answer_is_not_supervised() -> None:
    """It is read, so it counts in full, but nothing of it is learnt."""
    talk = Sample(1, "问", "b" * 100, "", (("问", "b" * 100),), untrained=(0,))
    (length,) = tokens.estimate([talk], "")
    assert length.supervised == 31


@pytest.mark.torch
def test_a_count_is_what_training_sees(tiny_model: Path, few_rows: Path) -> None:
    """With the model's own tokenizer the lengths are those of `encode`, sample by sample."""
    from transformers import AutoTokenizer

    from trainer.template import encode

    samples = read_dataset(few_rows).samples
    encoded = encode(samples, AutoTokenizer.from_pretrained(tiny_model), "你是客服。")
    assert tokens.count(samples, tiny_model, "你是客服。") == [
        tokens.Length(len(e.token_ids), e.supervised()) for e in encoded
    ]


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without one, or no library to read it: told, with what to do."""
    with pytest.raises(Refusal, match="no tokenizer") as caught:
        tokens.count([], tmp_path, "")
    assert caught.value.exit_code == USAGE
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(Refusal, match="tokenizers is not installed"):
        tokens.count([], tmp_path, "")
