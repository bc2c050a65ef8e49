from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trainer.formats.shapes import RowFormat, Tags, parse_row
from trainer.sample import RowError, Sample

HUMAN, GPT = {"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}
USER, ASSISTANT = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}


def sample(row: Any, row_format: RowFormat | None = None) -> Sample:
    found = parse_row(1, row, row_format) if row_format else parse_row(1, row)
    assert isinstance(found, Sample), found
    return found


def error(row: Any, row_format: RowFormat | None = None) -> RowError:
    found = parse_row(1, row, row_format) if row_format else parse_row(1, row)
    assert isinstance(found, RowError), found
    return found


def test_input_stands_below_the_instruction() -> None:
    """The question is what LLaMA-Factory makes of a row: instruction, newline, input."""
    row = {"instruction": "问", "input": "细节", "output": "答", "system": "你是",
           "history": [["早", "好"]]}  # fmt: skip
    assert sample(row) == Sample(1, "问\n细节", "答", "你是", (("早", "好"),))


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [HUMAN, GPT]},
        {"messages": [USER, ASSISTANT]},
        {"conversations": [USER, ASSISTANT]},
        {"conversations": [{"from": "user", "value": "问"}, {"from": "assistant", "value": "答"}]},
        {"messages": json.dumps([USER, ASSISTANT])},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "问"}]}, ASSISTANT]},
    ],
)
def test_a_conversation_is_told_by_its_keys(row: dict[str, Any]) -> None:
    """ShareGPT and OpenAI, each in the other's column too, as text in a cell, and in parts."""
    assert sample(row) == Sample(1, "问", "答")


def test_system_and_earlier_turns_are_kept() -> None:
    """The system prompt from the first message or from the column; all turns in order."""
    more = [{"role": "user", "content": "再问"}, {"role": "assistant", "content": "再答"}]
    first = {"role": "system", "content": "你是客服"}
    wanted = Sample(1, "再问", "再答", "你是客服", (("问", "答"),))
    assert sample({"messages": [first, USER, ASSISTANT, *more]}) == wanted
    assert sample({"messages": [USER, ASSISTANT, *more], "system": "你是客服"}) == wanted


def test_an_answer_of_weight_zero_is_read_but_not_trained() -> None:
    """OpenAI's weight: the answer stays in the conversation, its tokens are not learnt."""
    unlearnt = {**ASSISTANT, "weight": 0}
    found = sample({"messages": [USER, unlearnt, USER, {**ASSISTANT, "weight": 1}]})
    assert (found.untrained, found.trained_answers()) == ((0,), ("答",))
    assert "nothing in it is trained" in error({"messages": [USER, unlearnt]}).what


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([], "nothing in it is trained"),
        ([USER], "nothing in it is trained"),
        ([ASSISTANT, USER, ASSISTANT], "begins with an answer"),
        ([USER, ASSISTANT, USER], "ends with a question"),
        ([USER, USER, ASSISTANT], "two messages of the user"),
        ([USER, ASSISTANT, ASSISTANT], "two messages of the assistant"),
        ([USER, ASSISTANT, {"role": "system", "content": "x"}], "a system message stands after"),
        ([USER, {"role": "bot", "content": "x"}], "messages[1] has the role 'bot'"),
        ([USER, {"content": "x"}], "messages[1] has no role"),
        ([USER, {"role": ["x"], "content": "x"}], "messages[1] has the role"),
        ([USER, {"role": "assistant", "content": " "}], "messages[1] (assistant) is empty"),
        ([USER, {"role": "assistant", "content": 7}], "has content a number, not a text"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": [1]}], "is a tool's"),
        ([USER, {"role": "tool", "content": "x"}], "is a tool's (tool)"),
        ([USER, "x"], "messages[1] is a text, not an object"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT], "not text"),
        ("no list", "messages is a text, not a list"),
        ({"a": 1}, "messages is an object, not a list"),
    ],
)
def test_a_wrong_conversation_is_named(messages: Any, what: str) -> None:
    """Wrong roles, wrong order, nothing to learn: LLaMA-Factory drops such rows with a warning."""
    found = error({"messages": messages})
    assert what in found.what
    assert found.hint


def test_columns_and_tags_of_a_description_are_followed() -> None:
    """Only the names that the description gives are known then."""
    tags = Tags("who", "says", "客户", "客服")
    row_format = RowFormat(kind="sharegpt", messages="talk", system="role_play", tags=tags)
    talk = [{"who": "客户", "says": "问"}, {"who": "客服", "says": "答"}]
    assert sample({"talk": talk, "role_play": "你是"}, row_format) == Sample(1, "问", "答", "你是")
    assert "talk is missing" in error({"messages": [USER, ASSISTANT]}, row_format).what
    assert "has no role" in error({"talk": [HUMAN, GPT]}, row_format).what


def test_alpaca_under_other_names() -> None:
    """Errors speak of the columns as the person's file has them."""
    row_format = RowFormat(kind="alpaca", prompt="问题", response="回答")
    assert sample({"问题": "问", "回答": "答"}, row_format) == Sample(1, "问", "答")
    assert error({"问题": "问"}, row_format).what == "回答 is missing"


def test_history_in_a_cell_is_read() -> None:
    """A CSV file holds it as JSON text."""
    row = {"instruction": "问", "output": "答", "history": '[["早", "好"]]'}
    assert sample(row).history == (("早", "好"),)
    assert "history is not" in error({**row, "history": "[["}).what


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["role", "content", "from", "value", "weight", "messages", "conversations",
             "instruction", "input", "output", "system", "history", "tool_calls"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.sampled_from(["auto", "alpaca", "sharegpt"]))
def test_no_row_crashes_it(row: Any, kind: Any) -> None:
    """Whatever JSON a row is: a sample with something to learn, or an error with a hint."""
    found = parse_row(3, row, RowFormat(kind=kind))
    assert found.line == 3
    if isinstance(found, Sample):
        assert all(text.strip() for turn in found.turns() for text in turn)
        assert found.trained_answers()
    else:
        assert found.what
        assert found.hint
