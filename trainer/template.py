"""ChatML as Qwen2.5 has it: the tokens of a sample, and which of them are trained.

    <|im_start|>system
    {system}<|im_end|>
    <|im_start|>user
    {question}<|im_end|>
    <|im_start|>assistant
    {answer}<|im_end|>

Only the answers and the <|im_end|> that ends each are trained. Answers are tokenised apart from
what stands before them, since at inference the model is given the prompt's tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.exits import USAGE, Refusal
from trainer.sample import CONTROL_TOKENS, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

END = "<|im_end|>"
IGNORED = -100
"""The label of a token that is not trained, as torch's cross entropy has it."""

QWEN_DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
"""What Qwen2.5's own template writes when no system prompt is given."""

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\n" + QWEN_DEFAULT_SYSTEM + "<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Qwen2.5's template for conversations without tools, for the tokenizers made here."""


@dataclass(frozen=True)
class Encoded:
    """One sample in tokens; `labels` has the token where it is trained, IGNORED elsewhere."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]

    def supervised(self) -> int:
        """How many tokens are trained."""
        return sum(label != IGNORED for label in self.labels)


def segments(sample: Sample, default_system: str) -> list[tuple[str, bool]]:
    """(text, trained) pieces that make up the sample, in order; each answer is one of its own."""
    system = default_system if sample.system is None else sample.system
    pieces = []
    before = f"<|im_start|>system\n{system}<|im_end|>\n"
    for index, (question, answer) in enumerate(sample.turns()):
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        pieces += [(before + prompt, False), (answer + END, index not in sample.untrained)]
        before = "\n"
    return pieces


def encode(samples: Sequence[Sample], tokenizer: Any, default_system: str) -> list[Encoded]:
    """The samples in tokens, in order; each is asserted to be trained as the module says."""
    split = [segments(sample, default_system) for sample in samples]
    texts = [text for pieces in split for text, _trained in pieces]
    token_lists = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return [
        _join([(next(token_lists), trained) for _text, trained in pieces], end) for pieces in split
    ]


def encode_prompt(
    tokenizer: Any, turns: Sequence[tuple[str, str]], question: str, system: str
) -> list[int]:
    """The tokens before the answer to `question`: those that `encode` has there, piece by piece."""
    pieces = segments(Sample(0, question, "", system, tuple(turns)), system)[:-1]
    lists = tokenizer([text for text, _trained in pieces], add_special_tokens=False)["input_ids"]
    return [token for tokens in lists for token in tokens]


def require_chatml(tokenizer: Any) -> None:
    """Return if the tokenizer has ChatML's tokens as single ones and does not pad with its eos.

    With pad = eos, masking the padding would also mask the <|im_end|> that the model must learn;
    and where eos is not <|im_end|> (Qwen's base models), a LoRA model would never stop talking,
    since the output layer's row for <|im_end|> is not trained. Raises Refusal.
    """
    hint = "give an instruct model with Qwen2.5's tokenizer, such as Qwen/Qwen2.5-7B-Instruct"
    for token in CONTROL_TOKENS:
        if len(tokenizer(token, add_special_tokens=False)["input_ids"]) != 1:
            what = f"its tokenizer does not know {token}"
            raise Refusal(USAGE, what, where="--model_name_or_path", hint=hint)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if tokenizer.eos_token_id != end or tokenizer.pad_token_id in {None, end}:
        what = (
            f"its tokenizer ends a text with {tokenizer.eos_token} and pads with "
            f"{tokenizer.pad_token}; needed are <|im_end|> and another token"
        )
        raise Refusal(USAGE, what, where="--model_name_or_path", hint=hint)


def _join(pieces: list[tuple[list[int], bool]], end: int) -> Encoded:
    token_ids: list[int] = []
    labels: list[int] = []
    for tokens, trained in pieces:
        if trained and (len(tokens) < 2 or tokens[-1] != end or end in tokens[:-1]):
            raise AssertionError("an answer must be text and end with its only <|im_end|>")
        token_ids += tokens
        labels += tokens if trained else [IGNORED] * len(tokens)
    encoded = Encoded(tuple(token_ids), tuple(labels))
    if encoded.labels[0] != IGNORED or encoded.token_ids[-1] != end or end not in encoded.labels:
        raise AssertionError("a sample must begin untrained, train an answer, end with <|im_end|>")
    return encoded
