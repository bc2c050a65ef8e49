from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from trainer.exits import DATA, Refusal
from trainer.formats.info import describe, describe_file
from trainer.formats.shapes import OPENAI_TAGS, RowFormat

if TYPE_CHECKING:
    from pathlib import Path


def write(directory: Path, document: Any) -> Path:
    path = directory / "dataset_info.json"
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8")
    return directory


def test_no_description_is_none(tmp_path: Path) -> None:
    """Without the file, or without the name in it, a data set is found by its file alone."""
    assert describe("train", tmp_path) is None
    assert describe("train", write(tmp_path, {"other": {}})) is None
    assert describe_file(tmp_path / "train.jsonl") is None


def test_columns_and_tags_are_taken(tmp_path: Path) -> None:
    """The format has what is given and LLaMA-Factory's defaults for the rest."""
    entry = {
        "file_name": "t.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "system": None},
        "tags": {"role_tag": "role", "user_tag": "客户"},
    }
    found = describe("mine", write(tmp_path, {"mine": entry}))
    assert found
    assert found.file_name == "t.json"
    assert (found.row_format.kind, found.row_format.messages) == ("sharegpt", "talk")
    assert found.row_format.tags.user_tag == "客户"
    assert (found.row_format.tags.role_tag, found.row_format.tags.content_tag) == ("role", "value")
    assert found.row_format.system == "system"


def test_openai_has_its_own_defaults(tmp_path: Path) -> None:
    """LLaMA-Factory's third formatting: messages with role and content."""
    entry = {"file_name": "t.json", "formatting": "openai"}
    found = describe("mine", write(tmp_path, {"mine": entry}))
    assert found
    assert found.row_format == RowFormat(kind="sharegpt", messages="messages", tags=OPENAI_TAGS)


def test_a_file_is_known_by_its_name(tmp_path: Path) -> None:
    """Who gives the path instead of the name gets the same columns."""
    write(tmp_path, {"a": {"file_name": "x.json"}, "b": {"file_name": "t.json", "columns":
                     {"prompt": "q"}}})  # fmt: skip
    found = describe_file(tmp_path / "t.json")
    assert found
    assert found.row_format.prompt == "q"


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"mine": []}, "is not an object"),
        ({"mine": {}}, "has no file_name"),
        ({"mine": {"hf_hub_url": "a/b"}}, "has hf_hub_url, which is not followed"),
        ({"mine": {"file_name": "t", "ranking": True}}, "is for ranking"),
        ({"mine": {"file_name": "t", "formatting": "x"}}, "has formatting 'x'"),
        ({"mine": {"file_name": "t", "num_samples": 5}}, "has num_samples"),
        ({"mine": {"file_name": "t", "columns": []}}, None),
        ({"mine": {"file_name": "t", "columns": [1]}}, "has columns that are not an object"),
        ({"mine": {"file_name": "t", "columns": {"images": "i"}}}, "has a column 'images'"),
        ({"mine": {"file_name": "t", "columns": {"promt": "i"}}}, "unknown name 'promt'"),
        ({"mine": {"file_name": "t", "tags": {"role_tag": 7}}}, "'role_tag' is not a text"),
    ],
)
def test_a_description_that_cannot_be_followed_is_refused(
    tmp_path: Path, document: Any, what: str | None
) -> None:
    """Never guessed at: the refusal names the file, the entry and what is wrong with it."""
    write(tmp_path, document)
    if what is None:
        assert describe("mine", tmp_path)
        return
    with pytest.raises(Refusal) as caught:
        describe("mine", tmp_path)
    assert caught.value.exit_code == DATA
    assert what in caught.value.what
    assert caught.value.where == str(tmp_path / "dataset_info.json")
