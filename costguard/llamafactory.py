"""From `[training]` to a run of LLaMA-Factory: what its YAML holds, and its view of the data.

It saves nothing when it is asked to end, so what it saves by itself is set here: often enough,
and never one checkpoint alone, since the newest may be torn.
"""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.core.spec import Schedule
from costguard.lang import _
from costguard.tomlfile import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from costguard.tomlfile import TomlFile

Scalar = bool | int | float | str

CONFIG_FILE = "llamafactory.yaml"
INFO_FILE = "dataset_info.json"
# The name of the data set in a description that we write.
DATASET = "costguard"
# The keys of 0.9.5, to tell a slip; what is like none of them may be another version's.
KEYS_FILE = Path(__file__).with_name("llamafactory_keys.txt")
SLIP = 0.8
DEFAULTS: Mapping[str, Scalar] = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "save_steps": 50,
    "save_total_limit": 3,
    "logging_steps": 5,
    "logging_nan_inf_filter": False,  # it would show a loss that is not a number as the last good
    "report_to": "none",  # older versions wait at a question of wandb's
}
GIVEN = {
    "max_samples": "[[stages]] max_samples",
    "dataset_dir": "dataset",
    "resume_from_checkpoint": "costguard resume",
    "overwrite_output_dir": "costguard resume --from base",
}
SECRETS = ("hf_hub_token", "hub_token", "ms_hub_token", "om_hub_token", "swanlab_api_key")
KEPT_LEAST = 2
# What it takes where its file says nothing; of transformers' TrainingArguments.
EPOCHS, BATCH = 3.0, 8

# LLaMA-Factory's word for a column, and alpaca's.
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
_OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function",
    "system_tag": "system",
}


def keys_of(file: TomlFile, table: Mapping[str, Any], own: Iterable[str] = ()) -> dict[str, Scalar]:
    """LLaMA-Factory's keys as its YAML is to have them, with our defaults; UserError for a slip.

    `own`: the keys of `[training]` that are ours, which a slip may have been meant to be.
    """
    known = [*KEYS_FILE.read_text(encoding="utf-8").split(), *own]
    config: dict[str, Scalar] = dict(DEFAULTS)
    for key, value in table.items():
        if key in GIVEN:
            hint = _("use {key}").format(key=f"`{GIVEN[key]}`")
            what = _("`{key}` is set by costguard itself").format(key=key)
            raise file.error("bad_job_file", what, ("training", key), hint)
        if key in SECRETS or key.endswith(("_secret", "_token")):
            what = _("`{key}` is a secret: none of yours goes to a rented machine").format(key=key)
            raise file.error("bad_job_file", what, ("training", key), _("take it out"))
        near = None if key in known else nearest(key, known, SLIP)
        if near is not None:
            what = _("unknown key `{key}`").format(key=key)
            hint = _("did you mean {key}?").format(key=f"`{near}`")
            raise file.error("bad_job_file", what, ("training", key), hint)
        config[key] = _scalar(file, key, value)
    _refuse_unsaved(file, config)
    return config


def _scalar(file: TomlFile, key: str, value: object) -> Scalar:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ",".join(value)
    what = _("a flag takes text, a number, true or false, or a list of texts")
    raise file.error("bad_job_file", what, ("training", key))


def _refuse_unsaved(file: TomlFile, config: Mapping[str, Scalar]) -> None:
    """UserError where nothing could be gone on from after a pause."""
    kept = config["save_total_limit"]
    unsaved = {
        "save_strategy": config.get("save_strategy") == "no",
        "save_only_model": config.get("save_only_model") is True,
        "save_total_limit": isinstance(kept, int) and 0 < kept < KEPT_LEAST,
    }
    for key, is_so in unsaved.items():
        if is_so:
            what = _("with this, a paused run could not go on: LLaMA-Factory saves only by itself")
            hint = _("leave `{key}` out: a checkpoint each 50 steps, the last three kept")
            raise file.error("bad_job_file", what, ("training", key), hint.format(key=key))


def schedule_of(config: Mapping[str, Scalar], samples: int | None) -> Schedule | None:
    """When it judges and saves by its keys; None where that hangs on more than they say.

    `samples`: of the whole data set, None where nobody counted them. Where it judges at all, it
    does so once more when all is trained; by epochs, the last one's end comes before that.
    """
    saves = _number(config, "save_steps", 0)
    by_steps = config.get("save_strategy", "steps") == "steps" and saves >= 1
    save_every = int(saves) if by_steps else None
    strategy = config.get("eval_strategy", config.get("evaluation_strategy", "no"))
    if strategy == "no":
        if config.get("do_eval") is not True:
            return Schedule(save_every=save_every)
        every, parts, after = None, None, 1
    elif strategy == "steps":
        given = _number(config, "eval_steps", _number(config, "logging_steps", 0))
        if given <= 0:
            return None
        by_share = given < 1
        every, parts, after = (None, round(1_000 / given), 1) if by_share else (int(given), None, 1)
    elif strategy == "epoch" and _number(config, "max_steps", -1) <= 0:
        every, parts, after = None, round(_number(config, "num_train_epochs", EPOCHS) * 1_000), 2
    else:
        return None
    batch = _number(config, "per_device_train_batch_size", BATCH)
    step = int(batch * _number(config, "gradient_accumulation_steps", 1))
    return Schedule(every, parts, after, save_every, _held_out(config, samples), max(step, 1))


def _held_out(config: Mapping[str, Scalar], samples: int | None) -> int | None:
    """How many samples it judges by; None where they lie elsewhere, or are answered in full."""
    share = _number(config, "val_size", 0)
    if "eval_dataset" in config or config.get("predict_with_generate") is True or share <= 0:
        return None
    if share >= 1:
        return int(share)
    if samples is None:
        return None
    most = int(_number(config, "max_samples", samples))
    return max(round(share * min(samples, most)), 1)


def _number(config: Mapping[str, Scalar], key: str, default: float) -> float:
    """The key's number; of what is none, LLaMA-Factory will say so itself."""
    value = config.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def described(file: TomlFile, dataset: Path) -> tuple[str, dict[str, str]]:
    """The data set's name for LLaMA-Factory, and the files to write beside it over there.

    By the `dataset_info.json` beside it where that knows the file; else by one made from the
    columns that its rows have. UserError for rows of no shape that it knows.
    """
    info = dataset.with_name(INFO_FILE)
    if info.is_file():
        try:
            document = json.loads(info.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            document = {}  # what is wrong with it, the check of the data has said
        for name, entry in document.items() if isinstance(document, dict) else ():
            if isinstance(entry, dict) and entry.get("file_name") == dataset.name:
                return str(name), {f"data/{INFO_FILE}": json.dumps(document, ensure_ascii=False)}
    try:
        entry = _entry(list(_rows(dataset)))
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        what = _("the rows cannot be read: {why}").format(why=error)
        raise file.error("bad_dataset", what, ("training", "dataset"), str(dataset)) from error
    if entry is None:
        what = _("LLaMA-Factory knows no rows of this shape: neither alpaca nor ShareGPT")
        hint = _("describe its columns in a dataset_info.json beside it")
        raise file.error("bad_dataset", what, ("training", "dataset"), hint)
    document = {DATASET: {"file_name": dataset.name, **entry}}
    return DATASET, {f"data/{INFO_FILE}": json.dumps(document, ensure_ascii=False)}


def _entry(rows: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a description says of such rows; columns that no row has must not be named."""
    names = dict.fromkeys(name for row in rows for name in row)
    talk = next((name for name in ("messages", "conversations") if name in names), None)
    if talk is not None:
        turns: Any = next((row[talk] for row in rows if row.get(talk)), [])
        first = turns[0] if isinstance(turns, list) and turns else {}
        tags = {"tags": _OPENAI_TAGS} if isinstance(first, dict) and "role" in first else {}
        columns = {"messages": talk, **({"system": "system"} if "system" in names else {})}
        return {"formatting": "sharegpt", "columns": columns, **tags}
    columns = {column: name for column, name in _COLUMNS.items() if name in names}
    return {"columns": columns} if {"prompt", "response"} <= columns.keys() else None


def _rows(dataset: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a .csv, .json or .jsonl file that are objects."""
    text = dataset.read_text(encoding="utf-8-sig")
    if dataset.suffix.lower() == ".csv":
        yield from csv.DictReader(text.splitlines())
        return
    found = json.loads(text) if text.lstrip().startswith("[") else None
    rows = found if found is not None else map(json.loads, filter(str.strip, text.splitlines()))
    yield from (row for row in rows if isinstance(row, dict))
