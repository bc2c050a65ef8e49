from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.spec import JobSpec, Schedule, spec_from_json
from costguard.errors import UserError
from costguard.jobfile import load_job
from costguard.llamafactory import schedule_of

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
[job]
name = "kefu"
budget_yuan = 80
[instance]
provider = "local"
[training]
engine = "llamafactory"
model_name_or_path = "Qwen/Qwen2.5-7B-Instruct"
dataset = "data/train.jsonl"
quantization_bit = 4
template = "qwen"
learning_rate = 2e-5
num_train_epochs = 3.0
lora_target = ["q_proj", "v_proj"]
[[stages]]
max_samples = 2
[[stages]]
start = "previous"
"""
ROW = {"instruction": "问题", "input": "", "output": "回答"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with a good data set."""
    (tmp_path / "data").mkdir()
    rows = [json.dumps(ROW | {"instruction": f"问题{index}"}) for index in range(3)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def load(folder: Path, text: str = JOB) -> JobSpec:
    """The job of a file with this text."""
    (folder / "job.toml").write_text(text, encoding="utf-8")
    return load_job(folder / "job.toml")


def info_of(spec: JobSpec) -> dict[str, Any]:
    """The description of the data that is written on the instance."""
    found: dict[str, Any] = json.loads(spec.runs[0].files["data/dataset_info.json"])
    return found


def test_its_keys_become_its_config(folder: Path) -> None:
    """With what it needs to save by itself, and never overwriting; each stage is a run."""
    spec = load(folder)
    first, second = spec.runs
    assert first.argv == ("{llamafactory}", "llamafactory.yaml")
    assert first.config == {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "save_steps": 50,
        "save_total_limit": 3,
        "logging_steps": 5,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "quantization_bit": 4,
        "template": "qwen",
        "learning_rate": 2e-5,
        "num_train_epochs": 3,
        "lora_target": "q_proj,v_proj",
        "model_name_or_path": "Qwen/Qwen2.5-7B-Instruct",
        "dataset": "costguard",
        "dataset_dir": "data",
        "output_dir": "output",
        "max_samples": 2,
    }
    assert "max_samples" not in second.config
    assert second.config["adapter_name_or_path"] == "../stage-0/output/adapter"
    assert first.expects_adapter
    assert first.needs == ("torch", "llamafactory", "bitsandbytes", "modelscope")
    assert first.env == {"USE_MODELSCOPE_HUB": "1"}
    assert [upload.remote for upload in first.uploads] == ["data/train.jsonl"]
    assert spec_from_json(spec.to_json()) == spec


def test_a_model_on_the_providers_disk_asks_no_hub(folder: Path) -> None:
    """Its path is what the YAML names; whether a network carries it is looked at."""
    text = JOB.replace("Qwen/Qwen2.5-7B-Instruct", "/root/models/qwen").replace(
        "[[stages]]", 'model_source = "path"\n[[stages]]', 1
    )
    run = load(folder, text).runs[0]
    assert run.config["model_name_or_path"] == "/root/models/qwen"
    assert (run.env, run.hosts, run.places) == ({}, (), ("/root/models/qwen",))
    assert "modelscope" not in run.needs


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        (ROW, {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}),
        (
            {"instruction": "a", "output": "b", "history": []},
            {"columns": {"prompt": "instruction", "response": "output", "history": "history"}},
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                ],
                "system": "s",
            },
            {
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "system": "system"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                    "observation_tag": "tool",
                    "function_tag": "function",
                    "system_tag": "system",
                },
            },
        ),
    ],
)
def test_the_data_are_described_as_they_are(
    folder: Path, row: dict[str, Any], entry: dict[str, Any]
) -> None:
    """It knows a data set by its description alone, and breaks at a column that no row has."""
    (folder / "data" / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert info_of(load(folder)) == {"costguard": {"file_name": "train.jsonl", **entry}}


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_other_kinds_of_files_are_read_too(folder: Path, suffix: str) -> None:
    """A list in one document, and a table."""
    texts = {"json": json.dumps([ROW]), "csv": "instruction,output\na,b\n"}
    (folder / "data" / f"train.{suffix}").write_text(texts[suffix], encoding="utf-8")
    spec = load(folder, JOB.replace("train.jsonl", f"train.{suffix}"))
    assert info_of(spec)["costguard"]["columns"]["prompt"] == "instruction"


def test_a_description_of_the_users_is_kept(folder: Path) -> None:
    """The name that it gives to the file is the data set's."""
    told = {"other": {"file_name": "x.jsonl"}, "mine": {"file_name": "train.jsonl"}}
    (folder / "data" / "dataset_info.json").write_text(json.dumps(told), encoding="utf-8")
    spec = load(folder)
    assert spec.runs[0].config["dataset"] == "mine"
    assert info_of(spec) == told


@pytest.mark.parametrize(
    ("line", "what", "hint"),
    [
        ("overwrite_output_dir = true", "set by costguard itself", "costguard resume --from base"),
        ('resume_from_checkpoint = "x"', "set by costguard itself", "costguard resume"),
        ("max_samples = 3", "set by costguard itself", "[[stages]] max_samples"),
        ('hub_token = "s3cr3t"', "none of yours goes to a rented machine", "take it out"),
        ("lora_rnk = 8", "unknown key `lora_rnk`", "`lora_rank`"),
        ('model_sorce = "path"', "unknown key `model_sorce`", "`model_source`"),
        ('save_strategy = "no"', "a paused run could not go on", "leave `save_strategy` out"),
        ("save_only_model = true", "a paused run could not go on", "leave `save_only_model` out"),
        ("save_total_limit = 1", "a paused run could not go on", "leave `save_total_limit` out"),
        ("deepspeed = {}", "a flag takes text", ""),
    ],
)
def test_what_would_go_wrong_over_there_is_refused_here(
    folder: Path, line: str, what: str, hint: str
) -> None:
    """Before a yuan is spent, at the key, and without repeating a secret."""
    with pytest.raises(UserError) as caught:
        load(folder, JOB.replace("[[stages]]", f"{line}\n[[stages]]", 1))
    error = caught.value
    assert what in error.what
    assert hint in error.hint
    assert line.split(" ", maxsplit=1)[0] in error.where
    assert "s3cr3t" not in f"{error.what}{error.where}{error.hint}"


def test_a_key_of_another_version_is_passed_on(folder: Path) -> None:
    """What is like none that 0.9.5 knows is for the one on the instance to judge."""
    run = load(folder, JOB.replace("[[stages]]", "zz_from_the_future = 1\n[[stages]]", 1)).runs[0]
    assert run.config["zz_from_the_future"] == 1


def test_rows_that_it_would_not_know_are_refused(folder: Path) -> None:
    """Other stages than sft are not judged by the trainer's check, but they need a description."""
    (folder / "data" / "train.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    text = JOB.replace("[[stages]]", 'stage = "dpo"\n[[stages]]', 1)
    with pytest.raises(UserError, match="no rows of this shape") as caught:
        load(folder, text)
    assert "dataset_info.json" in caught.value.hint
    (folder / "data" / "train.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        load(folder, text)


BASE = {"save_steps": 50, "logging_steps": 5, "per_device_train_batch_size": 2}


@pytest.mark.parametrize(
    ("config", "schedule"),
    [
        ({}, Schedule(save_every=50)),
        ({"val_size": 0.1}, Schedule(save_every=50)),  # held out, and never judged by
        ({"val_size": 0.1, "do_eval": True}, Schedule(None, None, 1, 50, 100, 2)),
        ({"val_size": 0.1, "eval_strategy": "steps"}, Schedule(5, None, 1, 50, 100, 2)),
        (
            {"val_size": 30, "evaluation_strategy": "steps", "eval_steps": 20},
            Schedule(20, None, 1, 50, 30, 2),
        ),
        (
            {"val_size": 30, "eval_strategy": "steps", "eval_steps": 0.25},
            Schedule(None, 4_000, 1, 50, 30, 2),
        ),
        ({"val_size": 30, "eval_strategy": "epoch"}, Schedule(None, 3_000, 2, 50, 30, 2)),
        (
            {"val_size": 0.1, "eval_strategy": "epoch", "max_samples": 50, "num_train_epochs": 1.5},
            Schedule(None, 1_500, 2, 50, 5, 2),
        ),
        (
            {"eval_dataset": "other", "eval_strategy": "steps", "gradient_accumulation_steps": 4},
            Schedule(5, None, 1, 50, None, 8),
        ),
        (
            {"val_size": 9, "do_eval": True, "predict_with_generate": True},
            Schedule(None, None, 1, 50, None, 2),
        ),
        ({"save_strategy": "epoch"}, Schedule()),
        ({"save_steps": 0.1}, Schedule()),
        ({"eval_strategy": "epoch", "max_steps": 90}, None),
        ({"eval_strategy": "steps", "eval_steps": 0}, None),
        ({"eval_strategy": "whenever"}, None),
    ],
)
def test_when_it_judges_and_saves_is_read_off_its_keys(
    config: dict[str, Any], schedule: Schedule | None
) -> None:
    """Of a thousand samples; None where the keys alone do not say."""
    assert schedule_of({**BASE, **config}, 1_000) == schedule


def test_a_share_of_samples_that_nobody_counted_is_not_known() -> None:
    """A data set of preferences is not ours to read."""
    found = schedule_of({**BASE, "val_size": 0.1, "do_eval": True}, None)
    assert found == Schedule(None, None, 1, 50, None, 2)


def test_a_jobs_runs_have_their_schedules(folder: Path) -> None:
    """Each by its own samples: two of them, and three, of which a half is held out."""
    keys = 'val_size = 0.5\neval_strategy = "steps"\neval_steps = 4\n[[stages]]\nmax_samples'
    first, second = load(folder, JOB.replace("[[stages]]\nmax_samples", keys)).runs
    assert first.schedule == Schedule(4, None, 1, 50, 1, 8)
    assert second.schedule == Schedule(4, None, 1, 50, 2, 8)
