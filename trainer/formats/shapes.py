"""From a row to a sample: alpaca, ShareGPT and OpenAI messages, under the names of their columns.

alpaca: `instruction`, `output` (texts, not empty), optionally `input`, `system` (texts) and
`history` (a list of [question, answer] pairs). ShareGPT: `conversations`, a list of
`{"from": "human", "value": "…"}`. OpenAI: `messages`, a list of `{"role": "user", "content": "…"}`.
Other names are mapped by a `dataset_info.json`, in LLaMA-Factory's words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from trainer.sample import RowError, Sample, kind_of, text_error

Kind = Literal["auto", "alpaca", "sharegpt"]

_COMMON_NAMES = {
    "prompt": "instruction",
    "question": "instruction",
    "query": "instruction",
    "answer": "output",
    "response": "output",
    "completion": "output",
}
_USER, _ASSISTANT, _SYSTEM, _TOOL = "user", "assistant", "system", "tool"


@dataclass(frozen=True)
class Tags:
    """What the messages of a conversation call their parts and their speakers."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"

    def roles(self) -> dict[str, str]:
        """The speaker meant by each tag."""
        return {
            self.observation_tag: _TOOL,
            self.function_tag: _TOOL,
            self.system_tag: _SYSTEM,
            self.user_tag: _USER,
            self.assistant_tag: _ASSISTANT,
        }


SHAREGPT_TAGS = Tags()
OPENAI_TAGS = Tags("role", "content", "user", "assistant", "tool", "function", "system")


@dataclass(frozen=True)
class RowFormat:
    """Which shape the rows have and what their columns are called. Defaults: told row by row."""

    kind: Kind = "auto"
    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str = "history"
    system: str = "system"
    messages: str = "conversations"
    tags: Tags = SHAREGPT_TAGS

    def required(self) -> tuple[str, ...]:
        """The columns without which no row can be read."""
        return (self.messages,) if self.kind == "sharegpt" else (self.prompt, self.response)


AUTO = RowFormat()


class _BadRowError(Exception):
    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


def parse_row(line: int, row: Any, row_format: RowFormat = AUTO) -> Sample | RowError:
    """The sample that `row` is, or what is wrong with it."""
    if not isinstance(row, dict):
        hint = 'write {"instruction": "…", "input": "", "output": "…"}'
        return RowError(line, f"the row is {kind_of(row)}, not an object", hint)
    try:
        sample = _parse(line, row, row_format)
    except _BadRowError as bad:
        return RowError(line, str(bad), bad.hint)
    return text_error(sample) or sample


def _parse(line: int, row: dict[str, Any], row_format: RowFormat) -> Sample:
    if row_format.kind == "sharegpt":
        return _conversation(line, row, row_format.messages, row_format.tags, row_format.system)
    if row_format.kind == "auto" and row_format.prompt not in row:
        for key in ("messages", "conversations"):
            if key in row:
                return _conversation(line, row, key, _tags_of(row[key]), "system")
    return _alpaca(line, row, row_format)


def _alpaca(line: int, row: dict[str, Any], names: RowFormat) -> Sample:
    for key in (names.prompt, names.response):
        if key not in row:
            raise _BadRowError(f"{key} is missing", _rename_hint(row, key, names))
    for key in (names.prompt, names.query, names.response, names.system):
        value = row.get(key)
        optional = key in {names.query, names.system}
        if not isinstance(value, str) and not (optional and value is None):
            raise _BadRowError(f"{key} is {kind_of(value)}, not a text", "put it in quotes")
    for key in (names.prompt, names.response):
        if not row[key].strip():
            raise _BadRowError(f"{key} is empty", "write it, or take the row out")
    question = row[names.prompt] + ("\n" + row[names.query] if row.get(names.query) else "")
    history = _history(_from_text(row.get(names.history)), names.history)
    return Sample(line, question, row[names.response], row.get(names.system) or None, history)


def _history(value: Any, name: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    turns: list[Any] = value if isinstance(value, list) else [None]
    for turn in turns:
        if not (isinstance(turn, list) and len(turn) == 2) or not all(
            isinstance(text, str) and text.strip() for text in turn
        ):
            what = f"{name} is not a list of question-answer pairs"
            hint = 'write [["question", "answer"], …] with texts that are not empty'
            raise _BadRowError(what, hint)
    return tuple((question, answer) for question, answer in turns)


def _conversation(line: int, row: dict[str, Any], key: str, tags: Tags, system: str) -> Sample:
    if key not in row:
        names = ", ".join(repr(name) for name in list(row)[:8]) or "no key at all"
        raise _BadRowError(f"{key} is missing", f"the row has {names}")
    messages = _from_text(row[key])
    if not isinstance(messages, list):
        raise _BadRowError(f"{key} is {kind_of(messages)}, not a list of messages", "mend it")
    spoken = [
        (*_message(f"{key}[{number}]", message, tags), message)
        for number, message in enumerate(messages)
    ]
    said = row.get(system)
    if said is not None and not isinstance(said, str):
        raise _BadRowError(f"{system} is {kind_of(said)}, not a text", "put it in quotes")
    if spoken and spoken[0][0] == _SYSTEM:
        said, spoken = spoken[0][1], spoken[1:]
    _require_turns([role for role, _text, _message in spoken], key)
    texts = [text for _role, text, _message in spoken]
    turns = list(zip(texts[::2], texts[1::2], strict=True))
    untrained = tuple(
        index
        for index, (_role, _text, message) in enumerate(spoken[1::2])
        if message.get("weight", 1) == 0
    )
    if len(untrained) == len(turns):
        hint = "give at least one of them weight 1, or take the row out"
        raise _BadRowError("nothing in it is trained: every answer has weight 0", hint)
    return Sample(line, *turns[-1], said or None, tuple(turns[:-1]), untrained)


def _message(place: str, message: Any, tags: Tags) -> tuple[str, str]:
    """(speaker, text) of one message."""
    if not isinstance(message, dict):
        raise _BadRowError(f"{place} is {kind_of(message)}, not an object", "mend it")
    role, text = message.get(tags.role_tag), message.get(tags.content_tag)
    meant = tags.roles().get(role) if isinstance(role, str) else None
    if meant is None:
        what = f"{place} has the role {role!r}" if role is not None else f"{place} has no role"
        known = f"{tags.user_tag!r}, {tags.assistant_tag!r} and {tags.system_tag!r}"
        raise _BadRowError(what, f"{tags.role_tag!r} must be one of {known}")
    if meant == _TOOL or message.get("tool_calls"):
        hint = "take the row out: calls of tools are not trained here"
        raise _BadRowError(f"{place} is a tool's ({role})", hint)
    if isinstance(text, list):
        text = _joined_parts(place, text)
    if not isinstance(text, str):
        what = f"{place} has {tags.content_tag} {kind_of(text)}, not a text"
        raise _BadRowError(what, "put it in quotes")
    if not text.strip():
        raise _BadRowError(f"{place} ({role}) is empty", "write it, or take the row out")
    return meant, text


def _joined_parts(place: str, parts: list[Any]) -> str:
    """OpenAI's content in parts: those of text, joined."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            hint = "take the row out: only text is trained here"
            raise _BadRowError(f"{place} has a part that is not text", hint)
        texts.append(text)
    return "".join(texts)


def _require_turns(roles: list[str], key: str) -> None:
    """Return if user and assistant take turns, from a user's first to an assistant's last."""
    if _ASSISTANT not in roles:
        hint = "add the assistant's answer, or take the row out"
        raise _BadRowError(f"nothing in it is trained: {key} holds no answer", hint)
    for number, role in enumerate(roles):
        wanted = _ASSISTANT if number % 2 else _USER
        if role == wanted:
            continue
        if role == _SYSTEM:
            raise _BadRowError("a system message stands after others", "put it first, once")
        if number == 0:
            hint = "put what the user said before it, or take it out"
            raise _BadRowError(f"{key} begins with an answer", hint)
        hint = "join the two into one message"
        raise _BadRowError(f"two messages of the {role} stand one after the other", hint)
    if len(roles) % 2:
        hint = "add the answer, or take the last question out"
        raise _BadRowError(f"{key} ends with a question that has no answer", hint)


def _tags_of(messages: Any) -> Tags:
    """The tags of a conversation without a description, told from its messages."""
    value = _from_text(messages)
    listed = value if isinstance(value, list) else []
    objects = [message for message in listed if isinstance(message, dict)]
    if any("role" in message for message in objects):
        return OPENAI_TAGS
    if any(message.get("from") in {"user", "assistant"} for message in objects):
        return Tags(user_tag="user", assistant_tag="assistant")
    return SHAREGPT_TAGS


def _from_text(value: Any) -> Any:
    """A list that stands in a CSV cell as JSON text; any other value as it is."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _rename_hint(row: dict[Any, Any], missing: str, names: RowFormat) -> str:
    for name in row:
        if _COMMON_NAMES.get(str(name).lower()) == missing:
            return f"rename {name!r} to {missing!r}"
    present = ", ".join(repr(name) for name in list(row)[:8])
    keys = (names.prompt, names.query, names.response, names.system, names.history)
    return f"the row has {present or 'no key at all'}; the keys are {', '.join(keys)}"
