"""Read a job file and judge it: what comes out can be handed to the daemon as it stands.

1. the file is TOML and every key in it is known, and of the right kind
2. what it asks for exists in this version, and what it names exists on this disk
3. the data set passes the trainer's own check
Only then is anything rented; each refusal is one UserError that says what, where and what to do.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from costguard.core.environment import PINNED
from costguard.core.money import MoneyError
from costguard.core.spec import GuardLimits, InstanceWish, JobSpec, Run, Stage
from costguard.engines import TrainingTable, runs_for
from costguard.errors import UserError
from costguard.lang import _
from costguard.settings import (
    PROVIDERS,
    Yuan,
    check_address,
    load_settings,
    secret_files,
    yuan_micros,
)
from costguard.tomlfile import TomlFile, nearest, read_toml, validated

if TYPE_CHECKING:
    from collections.abc import Iterable

CODE = "bad_job_file"

MS_PER_UNIT = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_MAX_MS = 3_660 * 86_400_000  # ten years: beyond it is a typing mistake
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")

# The beginning of a requirement as pip reads it (PEP 508): a name, never an option or a path.
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*(?:[<>=!~;@].*)?")

NAME_MAX = 64
LEASE_MS = 900_000

_LIMITS = GuardLimits()  # the defaults of the design, section 6
_WISH = InstanceWish(provider="")


def parse_duration_ms(value: object) -> int:
    """Milliseconds of a text such as `"90s"`, `"5m"`, `"7d"` or `"1h30m"`; ValueError otherwise."""
    if not isinstance(value, str) or not _DURATION.fullmatch(value.strip().lower()):
        raise ValueError(
            _('{value} is no duration, such as "90s", "5m", "2h" or "7d"').format(value=repr(value))
        )
    parts = _DURATION_PART.findall(value.strip().lower())
    total = sum(Decimal(number) * MS_PER_UNIT[unit] for number, unit in parts)
    if total > DURATION_MAX_MS:
        raise ValueError(_("{value} is more than ten years").format(value=repr(value)))
    return int(total)


def check_name(name: str) -> str:
    """`name` if it can name a job or a project everywhere: on screen, in paths, in tags."""
    fine = all(char.isalnum() or char in "-_." for char in name)
    if not fine or not 0 < len(name) <= NAME_MAX or name[0] in "-.":
        raise ValueError(
            _(
                "{value} cannot be a name: 1 to 64 letters, digits, - _ and . are, "
                "the first one neither - nor ."
            ).format(value=repr(name))
        )
    return name


def check_requirement(text: str) -> str:
    """`text` if pip may be asked for it on the instance; the image's torch is not its business."""
    found = _REQUIREMENT.fullmatch(text)
    if found is None:
        raise ValueError(
            _("{value} is no package as pip knows it, such as liger-kernel>=0.8").format(
                value=repr(text)
            )
        )
    if found[1].lower() in PINNED:
        raise ValueError(
            _("{name} stays as the image has it: take an image with the version you need").format(
                name=found[1]
            )
        )
    _origin, at, address = text.partition("@")
    if at:
        check_address(address.strip())
    return text


def _longer_than_zero(duration_ms: int) -> int:
    if duration_ms <= 0:
        raise ValueError(_("a duration of zero makes no sense here"))
    return duration_ms


def _samples(value: object) -> int | None:
    if value == "all":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(_('{value} is neither "all" nor 1 or more').format(value=repr(value)))


Name = Annotated[str, AfterValidator(check_name)]
KeepMs = Annotated[int, BeforeValidator(parse_duration_ms)]
DurationMs = Annotated[int, BeforeValidator(parse_duration_ms), AfterValidator(_longer_than_zero)]
Percent = Annotated[int, Field(ge=0, le=100)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Job(_Table):
    name: Name
    project: Name = "default"
    budget_yuan: Any = None  # judged with --budget, which overrides it


class _Instance(_Table):
    provider: str
    id: str | None = None
    gpu: str | None = None
    gpu_count: Annotated[int, Field(ge=1, le=64)] = 1
    image: str | None = None
    system_disk_gb: Annotated[int, Field(ge=1)] | None = None
    data_disk_gb: Annotated[int, Field(ge=0)] | None = None
    region: str | None = None
    max_price_micros_per_hour: Yuan | None = Field(default=None, alias="max_price_yuan_per_hour")
    work_dir: str | None = None
    keep_for_ms: KeepMs = Field(default=_WISH.keep_for_ms, alias="keep_for")
    after_finish: Literal["pause", "release"] = "pause"
    reuse: bool | None = _WISH.reuse
    install: bool = _WISH.install
    packages: list[Annotated[str, AfterValidator(check_requirement)]] = []
    pip_index: Annotated[str, AfterValidator(check_address)] | None = None
    hf_endpoint: Annotated[str, AfterValidator(check_address)] | None = None
    python: str | None = None


class _Stage(_Table):
    max_samples: Annotated[int | None, BeforeValidator(_samples)] = None
    start: Literal["base", "previous"] = "base"
    gate_loss_drop_percent: Annotated[int, Field(ge=1, le=99)] | None = None


class _Guards(_Table):
    on_gate: Literal["pause", "continue"] = "pause"
    idle_after: DurationMs = _LIMITS.idle_after_ms
    idle_gpu_percent: Percent = _LIMITS.idle_gpu_percent
    idle_cpu_percent: Annotated[int, Field(ge=0)] = _LIMITS.idle_cpu_centicores
    stall_factor: Annotated[int, Field(ge=2, le=10_000)] = _LIMITS.stall_factor
    stall_floor: DurationMs = _LIMITS.stall_floor_ms
    silent_after: DurationMs = _LIMITS.silent_after_ms
    blind_after: DurationMs = _LIMITS.blind_after_ms
    prepare_within: DurationMs = _LIMITS.prepare_within_ms
    install_within: DurationMs = _LIMITS.install_within_ms
    max_hours: Annotated[Decimal, Field(gt=0, le=10_000, strict=False)] | None = None


class _Artifacts(_Table):
    pull_to: str = "artifacts"
    max_mbit_per_s: Annotated[int, Field(ge=1)] | None = None


class _Advanced(_Table):
    """What a night does not need and a test does."""

    lease: DurationMs = LEASE_MS
    long_leases: bool = False  # a sleeping laptop ends no run; see the README on what is open
    save_grace: DurationMs = 60_000
    telemetry_window: DurationMs = 5_000


class _JobFile(_Table):
    job: _Job
    instance: _Instance
    training: TrainingTable
    stages: list[_Stage] = []
    guards: _Guards = _Guards()
    artifacts: _Artifacts = _Artifacts()
    advanced: _Advanced = _Advanced()


def load_job(
    path: Path,
    budget: str | None = None,
    *,
    best_effort: bool = False,
    check_data: bool = True,
    dataset: Path | None = None,
    output_suffix: str = "",
) -> JobSpec:
    """The job that the file at `path` asks for, complete and checked; UserError if it cannot run.

    `budget` overrides the file's `budget_yuan`, `dataset` its data set. `output_suffix` gives a
    run that is to begin anew an output folder of its own. `check_data=False` leaves out step 3
    above, for callers that have just done it.
    """
    file = read_toml(path.absolute(), CODE)
    table = validated(_JobFile, file, file.data, CODE)
    training = table.training
    changes: dict[str, Any] = {"output_dir": training.output_dir + output_suffix}
    if dataset is not None:
        changes["dataset"] = str(dataset.absolute())
    training = training.model_copy(update=changes)
    wish = _instance_wish(file, table.instance)
    _refuse_idle_cards(file, table)
    stages = _stages(file, table)
    runs = runs_for(file, training, stages, table.advanced.save_grace, check_data=check_data)
    _refuse_secrets(file, runs)
    limit = table.artifacts.max_mbit_per_s
    return JobSpec(
        name=table.job.name,
        project=table.job.project,
        cap_micros=_cap(file, table.job.budget_yuan, budget),
        best_effort=best_effort,
        instance=wish,
        runs=runs,
        stages=stages,
        guards=_limits(table.guards),
        pull_to=str(file.path.parent / Path(table.artifacts.pull_to).expanduser()),
        pull_bytes_per_s=None if limit is None else limit * 1_000_000 // 8,
        lease_ms=table.advanced.lease,
        long_leases=table.advanced.long_leases,
        telemetry_window_ms=table.advanced.telemetry_window,
        source=str(file.path),
    )


def _cap(file: TomlFile, in_file: object, given: str | None) -> int:
    """The budget in micro-yuan: `--budget` if there is one, else the file's."""
    value = in_file if given is None else given
    hint = _("give a sum in yuan: budget_yuan = 80 under [job], or --budget 80")
    if value is None:
        raise file.error("bad_budget", _("there is no budget"), ("job",), hint)
    try:
        micros, wrong = yuan_micros(value), _("a budget of 0 buys nothing")
    except MoneyError as error:
        micros, wrong = 0, str(error)
    if micros > 0:
        return micros
    if given is not None:
        raise UserError("bad_budget", wrong, "--budget", hint)
    raise file.error("bad_budget", wrong, ("job", "budget_yuan"), hint)


def _instance_wish(file: TomlFile, table: _Instance) -> InstanceWish:
    """What to rent or to adopt; UserError for a platform or a machine that nobody knows."""
    wish: dict[str, Any] = table.model_dump()
    instance_id = wish.pop("id")
    wish["packages"] = tuple(wish["packages"])
    mirrors = load_settings().mirrors
    wish["pip_index"] = table.pip_index or mirrors.pip_index
    wish["hf_endpoint"] = table.hf_endpoint or mirrors.hf_endpoint
    name, _dot, box = table.provider.partition(".")
    if name == "ssh":
        instance_id = _box(file, box or instance_id)
        wish["provider"] = f"ssh.{instance_id}"
    elif table.provider not in PROVIDERS:
        _refuse_provider(file, table.provider)
    if table.after_finish == "release" and instance_id is not None:
        raise file.error(
            "not_ours_to_delete",
            _("a machine that was there before is not deleted by a job file"),
            ("instance", "after_finish"),
            _('keep "pause", and run `costguard release` when you have the result'),
        )
    return InstanceWish(instance_id=instance_id, **wish)


def _refuse_secrets(file: TomlFile, runs: tuple[Run, ...]) -> None:
    """UserError where an upload holds a secret of this home's, also by another name of the file."""
    kept = {(found.st_dev, found.st_ino) for found in map(Path.stat, secret_files(load_settings()))}
    tops = {Path(upload.local) for run in runs for upload in run.uploads}
    for path in (each for top in sorted(tops) for each in _files(top)):
        found = path.stat() if path.is_file() else None
        if found is not None and (found.st_dev, found.st_ino) in kept:
            raise file.error(
                "secret_in_upload",
                _("{path} is a secret: none of yours goes to a rented machine").format(path=path),
                ("training", "upload"),
                _("name the files that the training needs, or move the secret out of that folder"),
            )


def _files(top: Path) -> Iterable[Path]:
    return top.rglob("*") if top.is_dir() else (top,)


def _refuse_idle_cards(file: TomlFile, table: _JobFile) -> None:
    """The trainer uses one card and refuses to start beside idle ones: then rent has begun."""
    idle = table.instance.gpu_count - 1
    if idle > 0 and table.training.engine == "trainer":
        raise file.error(
            "idle_cards",
            _("the trainer uses one card: {idle} paid for would idle").format(idle=idle),
            ("instance", "gpu_count"),
            _("leave gpu_count out; several jobs can run at once, a card each"),
        )


def _refuse_provider(file: TomlFile, name: str) -> None:
    near = nearest(name, PROVIDERS)
    hint = _("did you mean {key}?").format(key=f'"{near}"') + " " if near else ""
    here = _("known: {names}").format(names=", ".join(PROVIDERS))
    what = _("unknown provider `{name}`").format(name=name)
    raise file.error("unknown_provider", what, ("instance", "provider"), hint + here)


def _box(file: TomlFile, name: str | None) -> str:
    """The machine with SSH that is meant: the one named, or the only one that the config has."""
    boxes = sorted(load_settings().ssh_boxes)
    if name in boxes:
        return str(name)
    if name is None and len(boxes) == 1:
        return boxes[0]
    known = ", ".join(boxes) or _("none yet")
    if name is None:
        what = _("which machine with SSH?")
    else:
        what = _("the config has no machine {name}").format(name=repr(name))
    hint = _('id = "…" names a [providers.ssh.…] of the config; there are: {names}')
    raise file.error("unknown_box", what, ("instance", "id"), hint.format(names=known))


def _stages(file: TomlFile, table: _JobFile) -> tuple[Stage, ...]:
    if len(table.stages) > 1 and table.training.engine == "command":
        raise file.error(
            CODE,
            _("a command of your own has no stages: costguard cannot tell it how many samples"),
            ("stages", 1),
            _("keep one [[stages]], and run the next as a job of its own"),
        )
    if table.stages and table.stages[0].start == "previous":
        raise file.error(
            CODE,
            _('the first stage cannot start from "previous": there is none before it'),
            ("stages", 0, "start"),
            'start = "base"',
        )
    return tuple(
        Stage(
            max_samples=stage.max_samples,
            start=stage.start,
            gate_loss_drop_percent=stage.gate_loss_drop_percent,
        )
        for stage in table.stages or [_Stage()]
    )


def _limits(table: _Guards) -> GuardLimits:
    max_hours = table.max_hours
    return GuardLimits(
        idle_after_ms=table.idle_after,
        idle_gpu_percent=table.idle_gpu_percent,
        idle_cpu_centicores=table.idle_cpu_percent,  # one hundredth of one core is one percent
        stall_factor=table.stall_factor,
        stall_floor_ms=table.stall_floor,
        silent_after_ms=table.silent_after,
        blind_after_ms=table.blind_after,
        prepare_within_ms=table.prepare_within,
        install_within_ms=table.install_within,
        max_ms=None if max_hours is None else int(max_hours * MS_PER_UNIT["h"]),
        on_gate=table.on_gate,
    )
