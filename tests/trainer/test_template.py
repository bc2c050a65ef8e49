from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trainer.data import Sample, read_dataset
from trainer.exits import Refusal
from trainer.template import (
    IGNORED,
    QWEN_DEFAULT_SYSTEM,
    encode,
    encode_prompt,
    require_chatml,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

TALK = Sample(1, "几天发货", "两天内。", "你是客服。", (("在吗\n", "在的"), ("好", "请讲")))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_only_the_answers_and_their_ends_are_trained(tokenizer: Any) -> None:
    """Decoded, the trained tokens are each answer with its <|im_end|>, and nothing else."""
    (encoded,) = encode([TALK], tokenizer, "unused")
    trained = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(trained) == "在的<|im_end|>请讲<|im_end|>两天内。<|im_end|>"
    assert encoded.supervised() == len(trained)
    for token, label in zip(encoded.token_ids, encoded.labels, strict=True):
        assert label in {IGNORED, token}


def test_the_text_is_chatml(tokenizer: Any) -> None:
    """Decoded, the whole sample is what Qwen2.5 was trained to read."""
    (encoded,) = encode([Sample(1, "问", "答")], tokenizer, "系统")
    assert tokenizer.decode(encoded.token_ids) == (
        "<|im_start|>system\n系统<|im_end|>\n"
        "<|im_start|>user\n问<|im_end|>\n"
        "<|im_start|>assistant\n答<|im_end|>"
    )


def test_the_tokens_are_those_of_the_chat_template(tokenizer: Any) -> None:
    """Training and serving agree: apply_chat_template gives the same, but for a last newline."""
    messages = [{"role": "system", "content": TALK.system}]
    for question, answer in TALK.turns():
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    (encoded,) = encode([TALK], tokenizer, "unused")
    served = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(encoded.token_ids) == served[: len(encoded.token_ids)]
    assert tokenizer.decode(served[len(encoded.token_ids) :]) == "\n"


def test_without_a_system_prompt_the_template_writes_qwens(tokenizer: Any) -> None:
    """The default of training and the default of serving are the same words."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": "问"}], tokenize=False)
    assert text.startswith(f"<|im_start|>system\n{QWEN_DEFAULT_SYSTEM}<|im_end|>\n")


def test_every_row_of_the_example_is_trained(tokenizer: Any, rows: Path) -> None:
    """Each sample begins untrained and ends with a trained <|im_end|>."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    encoded = encode(read_dataset(rows).samples, tokenizer, "你是客服。")
    assert len(encoded) >= 300
    assert {sample.labels[-1] for sample in encoded} == {end}
    assert {sample.labels[0] for sample in encoded} == {IGNORED}
    assert min(sample.supervised() for sample in encoded) >= 2


def test_pad_is_never_eos(tokenizer: Any, tiny_model: Path) -> None:
    """The made tokenizer passes; one that pads with its eos, or ends otherwise, is refused."""
    from transformers import AutoTokenizer

    require_chatml(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    padded_wrongly = AutoTokenizer.from_pretrained(tiny_model, pad_token="<|im_end|>")
    base_model = AutoTokenizer.from_pretrained(tiny_model, eos_token="<|endoftext|>")
    for wrong in (padded_wrongly, base_model):
        with pytest.raises(Refusal, match="ends a text with"):
            require_chatml(wrong)


def test_a_tokenizer_without_chatml_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Where <|im_start|> falls into pieces, the model has never seen it."""
    from transformers import PreTrainedTokenizerFast

    text = (tiny_model / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text.replace("<|im_start|>", "<|start|>"))
    other = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with pytest.raises(Refusal, match=r"does not know <\|im_start\|>"):
        require_chatml(other)


def test_an_untrained_answer_is_read_but_not_learnt(tokenizer: Any) -> None:
    """Of a conversation whose first answer has weight 0, only the second is trained."""
    talk = Sample(1, "好", "请讲", "", (("在吗", "在的"),), untrained=(0,))
    (encoded,) = encode([talk], tokenizer, "unused")
    trained = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(trained) == "请讲<|im_end|>"
    assert "在的<|im_end|>" in tokenizer.decode(encoded.token_ids)


def test_the_prompt_of_serving_is_that_of_training(tokenizer: Any) -> None:
    """Token by token what training had before the answer, for a conversation of three turns."""
    (encoded,) = encode([TALK], tokenizer, "unused")
    prompt = encode_prompt(tokenizer, TALK.history, TALK.question, "你是客服。")
    answer = tokenizer(TALK.answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert [*prompt, *answer] == list(encoded.token_ids)
