"""From `[training]` to what is run on the instance: argument lists, uploads, needed packages."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from costguard import llamafactory
from costguard.core.patterns import PatternError, compile_pattern
from costguard.core.spec import Run, Schedule, Stage, UploadWish
from costguard.lang import _
from costguard.preflight import check_flags, data_report, require_file, trainer_root
from costguard.tomlfile import TomlFile, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from costguard.preflight import DataReport, RunFacts

# As the extra `trainer` of pyproject.toml has them; torch comes with the image.
TRAINER_LEAST = {
    "torch": "2.6",
    "transformers": "4.56",
    "peft": "0.15",
    "bitsandbytes": "0.49",
    "accelerate": "1.2",
}
HUB_HOSTS = {"modelscope": "www.modelscope.cn", "huggingface": "huggingface.co"}

# Keys of the trainer that this engine gives by itself, and where a person says them instead.
GIVEN_BY_ENGINE = {"max_samples": "[[stages]] max_samples", "dataset_dir": "dataset"}

OWN_KEY_SLIP = 0.8  # closer than any flag of the trainer is to a key of ours

# These change what is wrong with a data set; `python -m trainer check` has them too.
JUDGING_FLAGS = ("--cutoff_len=", "--max_bad_percent=", "--val_size=")
DATASET_INFO = "dataset_info.json"

# Stands for a model that is not on this disk while the trainer judges the flags.
MODEL_ELSEWHERE = "owner/model"


def _relative_folder(name: str) -> str:
    """`name` if it stays inside the job's folder on the instance."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or name.startswith("~"):
        raise ValueError(
            _("{value} must be a folder inside the job's own, such as output").format(
                value=repr(name)
            )
        )
    return path.as_posix()


def _pattern(text: str) -> str:
    """`text` if the agent can find progress with it."""
    try:
        compile_pattern(text)
    except PatternError as error:
        raise ValueError(
            _("{value} finds no progress: {why}").format(value=repr(text), why=error)
        ) from error
    return text


class TrainingTable(BaseModel):
    """`[training]`; the trainer's own flags are in `model_extra`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, protected_namespaces=())

    engine: Literal["trainer", "llamafactory", "command"] = "trainer"
    model_name_or_path: str | None = None
    model_source: Literal["modelscope", "huggingface", "path"] = "modelscope"
    dataset: str | None = None
    output_dir: Annotated[str, AfterValidator(_relative_folder)] = "output"
    command: Annotated[list[str], Field(min_length=1)] | None = None
    progress_pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    upload: list[str] = []


def runs_for(
    file: TomlFile,
    table: TrainingTable,
    stages: tuple[Stage, ...],
    save_grace_ms: int,
    *,
    check_data: bool,
) -> tuple[Run, ...]:
    """One run for each stage; UserError for what cannot be run, or is not on this disk."""
    if table.engine == "command":
        return (_command_run(file, table, save_grace_ms),)
    make = _llamafactory_run if table.engine == "llamafactory" else _trainer_run
    return tuple(
        make(file, table, stages, n, save_grace_ms, check_data=check_data)
        for n in range(len(stages))
    )


def _command_run(file: TomlFile, table: TrainingTable, save_grace_ms: int) -> Run:
    for key in table.model_extra or {}:
        raise file.error(
            "bad_job_file",
            _("unknown key `{key}`").format(key=key),
            ("training", key),
            _('engine "command" knows: command, progress_pattern, upload, dataset, output_dir'),
        )
    if table.command is None:
        raise file.error(
            "bad_job_file",
            _("`{key}` is missing").format(key="command"),
            ("training",),
            'command = ["python3", "x.py"]',
        )
    uploads = list(_uploads(file, table))
    if table.dataset is not None:
        uploads.append(_upload(file, table.dataset, "dataset"))
    return Run(
        argv=tuple(table.command),
        engine="command",
        progress_pattern=table.progress_pattern,
        output_dir=table.output_dir,
        uploads=_without_clashes(file, uploads),
        save_grace_ms=save_grace_ms,
    )


def _trainer_run(
    file: TomlFile,
    table: TrainingTable,
    stages: tuple[Stage, ...],
    number: int,
    save_grace_ms: int,
    *,
    check_data: bool,
) -> Run:
    stage = stages[number]
    _refuse_misplaced(file, table)
    dataset = require_file(file, table.dataset, ("training", "dataset"))
    model, model_uploads = _model(file, table)
    flags = ["--output_dir", table.output_dir]
    if table.model_source != "path":
        flags += ["--model_source", table.model_source]
    if stage.max_samples is not None:
        flags += ["--max_samples", str(stage.max_samples)]
    if stage.start == "previous":
        # Stages lie beside one another on the instance: see the daemon's links.
        flags += ["--init_adapter", f"../stage-{number - 1}/{table.output_dir}/adapter"]
    for flag, value in (table.model_extra or {}).items():
        flags.append(f"--{flag}={_flag_text(file, flag, value)}")
    model_here = model_uploads[0].local if model_uploads else model
    if table.model_source == "path" and not model_uploads:
        model_here = MODEL_ELSEWHERE
    facts = check_flags(
        file,
        ["--model_name_or_path", model_here, "--dataset", str(dataset), *flags],
    )
    report = None
    if check_data:
        report = data_report(dataset, [flag for flag in flags if flag.startswith(JUDGING_FLAGS)])
    there = f"data/{dataset.name}"
    return Run(
        argv=(
            *("{python}", "-m", "trainer", "train"),
            *("--model_name_or_path", model, "--dataset", there),
            *flags,
        ),
        output_dir=table.output_dir,
        # Its log is one language wherever it is rented, and told in the reader's by `logs`.
        env={"LANGUAGE": "en"},
        needs=tuple(TRAINER_LEAST),
        least=TRAINER_LEAST,
        requirements=tuple(
            f"{name}>={version}" for name, version in TRAINER_LEAST.items() if name != "torch"
        ),
        hosts=_hosts(table),
        places=_places(table, model, model_uploads),
        expects_adapter=True,
        uploads=_without_clashes(
            file,
            [
                *_trainer_sources(),
                UploadWish(str(dataset), there),
                *_description(dataset),
                *model_uploads,
                *_uploads(file, table),
            ],
        ),
        save_grace_ms=save_grace_ms,
        schedule=trainer_schedule(facts, report),
    )


def trainer_schedule(facts: RunFacts, report: DataReport | None) -> Schedule | None:
    """When our trainer judges and saves: see `trainer/train.py`. None where that hangs on the data.

    It judges every `eval_steps`, or at each epoch's end, and after the last step in any case.
    """
    if facts.val_size <= 0:
        return Schedule(save_every=facts.save_steps)
    every, parts, held = facts.eval_steps or None, None, round(facts.val_size)
    if facts.val_size < 1:
        held = max(round(facts.val_size * report.samples), 1) if report else 0
    if every is None and facts.max_steps is None:
        parts = round(facts.epochs * 1_000)
    elif every is None:
        if report is None:
            return None
        kept = min(max(report.samples - held, 1), facts.max_samples or report.samples)
        every = -(-kept // facts.samples_per_step)
    return Schedule(every, parts, 1, facts.save_steps, held or None, facts.samples_per_step)


def _llamafactory_run(
    file: TomlFile,
    table: TrainingTable,
    stages: tuple[Stage, ...],
    number: int,
    save_grace_ms: int,
    *,
    check_data: bool,
) -> Run:
    stage = stages[number]
    _refuse_misplaced(file, table)
    dataset = require_file(file, table.dataset, ("training", "dataset"))
    model, model_uploads = _model(file, table)
    config = llamafactory.keys_of(file, table.model_extra or {}, TrainingTable.model_fields)
    report = None
    if check_data and config["stage"] == "sft":
        judged = [f"--{key}={config[key]}" for key in ("cutoff_len", "val_size") if key in config]
        report = data_report(dataset, judged)
    name, files = llamafactory.described(file, dataset)
    config |= {"model_name_or_path": model, "dataset": name, "dataset_dir": "data"}
    config["output_dir"] = table.output_dir
    if stage.max_samples is not None:
        config["max_samples"] = stage.max_samples
    if stage.start == "previous":
        config["adapter_name_or_path"] = f"../stage-{number - 1}/{table.output_dir}/adapter"
    from_modelscope = table.model_source == "modelscope"
    extras = {"bitsandbytes": "0.43"} if "quantization_bit" in config else {}
    extras |= {"modelscope": "1.11"} if from_modelscope else {}
    return Run(
        argv=("{llamafactory}", llamafactory.CONFIG_FILE),
        engine="llamafactory",
        output_dir=table.output_dir,
        needs=("torch", "llamafactory", *extras),
        requirements=(
            "llamafactory>=0.9.3",
            *(f"{package}>={version}" for package, version in extras.items()),
        ),
        env={"USE_MODELSCOPE_HUB": "1"} if from_modelscope else {},
        hosts=_hosts(table),
        places=_places(table, model, model_uploads),
        config=config,
        files=files,
        expects_adapter=config["finetuning_type"] == "lora",
        uploads=_without_clashes(
            file,
            [
                UploadWish(str(dataset), f"data/{dataset.name}"),
                *model_uploads,
                *_uploads(file, table),
            ],
        ),
        save_grace_ms=save_grace_ms,
        schedule=llamafactory.schedule_of(config, None if report is None else report.samples),
    )


def _places(table: TrainingTable, model: str, uploads: list[UploadWish]) -> tuple[str, ...]:
    """What is read over there besides the job's own folder: a model that lies there already."""
    return (model,) if table.model_source == "path" and not uploads else ()


def _hosts(table: TrainingTable) -> tuple[str, ...]:
    """Who is asked for the model, for first contact; a mirror is put in by the daemon's order."""
    host = HUB_HOSTS.get(table.model_source)
    return () if host is None else (host,)


def _refuse_misplaced(file: TomlFile, table: TrainingTable) -> None:
    """UserError for a key that is another engine's, or that this one gives by itself."""
    for key in ("command", "progress_pattern"):
        if getattr(table, key) is not None:
            raise file.error(
                "bad_job_file",
                _('`{key}` is for engine = "command"').format(key=key),
                ("training", key),
                _('add engine = "command", or leave `{key}` out').format(key=key),
            )
    for key in table.model_extra or {} if table.engine == "trainer" else ():
        # The trainer judges the rest; a slip in one of our own keys it could not know.
        meant = GIVEN_BY_ENGINE.get(key) or nearest(key, TrainingTable.model_fields, OWN_KEY_SLIP)
        if meant:
            raise file.error(
                "bad_job_file",
                _("unknown key `{key}`").format(key=key),
                ("training", key),
                _("did you mean {key}?").format(key=f"`{meant}`"),
            )


def _flag_text(file: TomlFile, flag: str, value: object) -> str:
    """A TOML value as the trainer's command line takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | Decimal):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ",".join(value)
    raise file.error(
        "bad_job_file",
        _("a flag takes text, a number, true or false, or a list of texts"),
        ("training", flag),
    )


def _model(file: TomlFile, table: TrainingTable) -> tuple[str, list[UploadWish]]:
    """What `--model_name_or_path` is to be, and what has to be uploaded for it."""
    name, place = table.model_name_or_path, ("training", "model_name_or_path")
    if not name:
        raise file.error(
            "bad_job_file",
            _("`{key}` is missing").format(key="model_name_or_path"),
            ("training",),
            'model_name_or_path = "Qwen/Qwen2.5-7B-Instruct"',
        )
    if table.model_source != "path":
        return name, []
    local = file.path.parent / Path(name).expanduser()
    if not local.exists():
        if name.startswith(("/", "~")):
            return name, []  # a path on the instance, such as its platform's disk of models
        raise file.error(
            "bad_model",
            _("there is no such folder here, and a path on the instance begins with /"),
            place,
            str(local),
        )
    if not (local / "config.json").is_file():
        raise file.error(
            "bad_model",
            _("this folder holds no model: there is no config.json in it"),
            place,
            str(local),
        )
    return "model", [UploadWish(str(local), "model")]


def _description(dataset: Path) -> Iterator[UploadWish]:
    """What says how the rows are to be read: without it, the instance would refuse them."""
    path = dataset.with_name(DATASET_INFO)
    if path.is_file():
        yield UploadWish(str(path), f"data/{DATASET_INFO}")


def _trainer_sources() -> Iterator[UploadWish]:
    """The trainer package, file by file: sources and catalogue, without examples and caches."""
    root = trainer_root()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.mo")]):
        inside = path.relative_to(root)
        if inside.parts[0] != "examples":
            yield UploadWish(str(path), f"trainer/{inside.as_posix()}")


def _uploads(file: TomlFile, table: TrainingTable) -> Iterator[UploadWish]:
    for name in table.upload:
        yield _upload(file, name, "upload")


def _upload(file: TomlFile, name: str, key: str) -> UploadWish:
    """A local path under the same relative name there; one from elsewhere under its last part."""
    given = Path(name).expanduser()
    local = file.path.parent / given
    if not name or not local.exists():
        raise file.error(
            "missing_upload",
            _("{path} does not exist").format(path=local),
            ("training", key),
            _("paths are relative to the job file"),
        )
    outside = given.is_absolute() or ".." in given.parts or not given.parts
    remote = local.resolve().name if outside else given.as_posix()
    return UploadWish(str(local), remote)


def _without_clashes(file: TomlFile, uploads: list[UploadWish]) -> tuple[UploadWish, ...]:
    """The uploads, each once; UserError where two different ones would land in one place."""
    by_remote: dict[str, UploadWish] = {}
    for upload in uploads:
        other = by_remote.setdefault(upload.remote, upload)
        if Path(other.local).resolve() != Path(upload.local).resolve():
            raise file.error(
                "bad_job_file",
                _("{one} and {other} would both become {remote} on the instance").format(
                    one=other.local, other=upload.local, remote=upload.remote
                ),
                ("training", "upload"),
                _("rename one of them"),
            )
    return tuple(by_remote.values())
