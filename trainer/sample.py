"""One sample, and what may be wrong with the row it was to be made of. Standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class RowError:
    """What is wrong with the row that begins in `line`, and what to do about it."""

    line: int
    what: str
    hint: str

    def as_json(self) -> dict[str, Any]:
        """The error as `check --json` prints it."""
        return {"line": self.line, "what": self.what, "hint": self.hint}


@dataclass(frozen=True)
class Sample:
    """One row: the turns of a conversation, the last of which is `question` and `answer`."""

    line: int
    question: str
    answer: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    untrained: tuple[int, ...] = ()
    """Indices of `turns()` whose answer is read but not trained (OpenAI's `"weight": 0`)."""

    def turns(self) -> tuple[tuple[str, str], ...]:
        """All (question, answer) pairs, oldest first."""
        return (*self.history, (self.question, self.answer))

    def trained_answers(self) -> tuple[str, ...]:
        """The answers that the model learns, oldest first; never none."""
        pairs = enumerate(self.turns())
        return tuple(answer for index, (_question, answer) in pairs if index not in self.untrained)

    def texts(self) -> tuple[str, ...]:
        """Every text that the model would read."""
        system = () if self.system is None else (self.system,)
        return (*system, *(text for turn in self.turns() for text in turn))


def text_error(sample: Sample) -> RowError | None:
    """What no text may hold: the template's own tokens, halves of characters, NUL."""
    for text in sample.texts():
        for token in CONTROL_TOKENS:
            if token in text:
                hint = "take it out: the template writes it, a text must not"
                return RowError(sample.line, f"a text holds the control token {token}", hint)
        if any("\ud800" <= character <= "\udfff" for character in text):
            hint = "the file was cut or converted wrongly there: write the character itself"
            return RowError(sample.line, "a text holds half a surrogate pair", hint)
        if "\0" in text:
            hint = "the file was cut or converted wrongly there: take it out"
            return RowError(sample.line, "a text holds a NUL character", hint)
    return None


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {dict: "an object", list: "an array", str: "a text", type(None): "null"}
    if isinstance(value, bool):
        return "true or false"
    return kinds.get(type(value), "a number")
