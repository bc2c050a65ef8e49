"""`dataset_info.json`, as LLaMA-Factory writes it: which file a name means, and its columns."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from trainer.exits import DATA, Refusal
from trainer.formats.shapes import AUTO, OPENAI_TAGS, SHAREGPT_TAGS, RowFormat, Tags

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "dataset_info.json"
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_TEXT_COLUMNS = ("prompt", "query", "response", "history", "system", "messages")
_OTHER_COLUMNS = ("tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag")


@dataclass(frozen=True)
class Described:
    """What a description says of one data set."""

    file_name: str
    row_format: RowFormat


def describe(name: str, directory: Path) -> Described | None:
    """What `directory/dataset_info.json` says of `name`; None if there is no such file or entry.

    Raises Refusal for a description that cannot be followed.
    """
    path = directory / FILE_NAME
    document = _document(path)
    return _described(path, name, document[name]) if name in document else None


def describe_file(file: Path) -> Described | None:
    """What the `dataset_info.json` beside `file` says of it, by whatever name; raises Refusal."""
    path = file.parent / FILE_NAME
    for name, entry in _document(path).items():
        if isinstance(entry, dict) and entry.get("file_name") == file.name:
            return _described(path, name, entry)
    return None


def _document(path: Path) -> dict[str, Any]:
    """The descriptions by name; none if there is no file of them."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(DATA, f"not JSON: {error}", where=str(path), hint="mend it") from error
    if not isinstance(document, dict):
        raise Refusal(DATA, "it is not an object", where=str(path), hint='write {"name": {…}}')
    return document


def _described(path: Path, name: str, entry: Any) -> Described:
    if not isinstance(entry, dict):
        raise _refusal(path, name, "is not an object", 'write {"file_name": "…"}')
    for key in _ELSEWHERE:
        if entry.get(key):
            hint = "download it and give its file_name: data are judged here before a yuan is spent"
            raise _refusal(path, name, f"has {key}, which is not followed", hint)
    file_name = entry.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise _refusal(path, name, "has no file_name", "add it")
    if entry.get("ranking"):
        raise _refusal(path, name, "is for ranking", "give a data set for --stage sft")
    kind = entry.get("formatting", "alpaca")
    if kind not in {"alpaca", "sharegpt", "openai"}:
        raise _refusal(path, name, f"has formatting {kind!r}", "write alpaca, sharegpt or openai")
    if entry.get("num_samples") is not None:
        raise _refusal(path, name, "has num_samples", "take it out and give --max_samples")
    texts = _texts(path, name, "columns", entry, (*_TEXT_COLUMNS, *_OTHER_COLUMNS))
    for column in _OTHER_COLUMNS:
        if column in texts:
            raise _refusal(path, name, f"has a column {column!r}", "only text is trained here")
    tag_names = tuple(field.name for field in fields(Tags))
    tags = _texts(path, name, "tags", entry, tag_names)
    usual = OPENAI_TAGS if kind == "openai" else SHAREGPT_TAGS
    columns = {**({"messages": "messages"} if kind == "openai" else {}), **texts}
    row_format = RowFormat(
        kind="alpaca" if kind == "alpaca" else "sharegpt",
        tags=Tags(**{key: tags.get(key, getattr(usual, key)) for key in tag_names}),
        **{key: columns.get(key, getattr(AUTO, key)) for key in _TEXT_COLUMNS},
    )
    return Described(file_name, row_format)


def _texts(
    path: Path, name: str, part: str, entry: dict[str, Any], known: tuple[str, ...]
) -> dict[str, str]:
    """The named texts of one part of an entry; null counts as absent."""
    value = entry.get(part) or {}
    if not isinstance(value, dict):
        raise _refusal(path, name, f"has {part} that are not an object", "mend it")
    for key, text in value.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise _refusal(path, name, f"has {part} with the unknown name {key!r}", hint)
        if text is not None and not isinstance(text, str):
            raise _refusal(path, name, f"has {part} where {key!r} is not a text", "mend it")
    return {key: text for key, text in value.items() if text}


def _refusal(path: Path, name: str, what: str, hint: str) -> Refusal:
    return Refusal(DATA, f"{name!r} {what}", where=str(path), hint=hint)
