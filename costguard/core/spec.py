"""What a person asked for: the job as the daemon stores it, already checked and in whole units.

The job file is read and judged in `costguard.jobfile`; what reaches the daemon is this.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """When a guard gives its verdict. Defaults are those of the design, section 6."""

    idle_after_ms: int = 300_000
    idle_gpu_percent: int = 5
    idle_cpu_centicores: int = 5  # hundredths of one core, summed over the job's processes
    stall_factor: int = 10
    stall_floor_ms: int = 120_000
    silent_after_ms: int = 60_000
    blind_after_ms: int = 1_800_000
    prepare_within_ms: int = 1_800_000
    max_ms: int | None = None
    on_gate: str = "pause"


@dataclass(frozen=True, slots=True)
class Stage:
    """One rung of the ladder: how many samples, from where, and what it must show."""

    max_samples: int | None = None  # None: all of them
    start: str = "base"  # or "previous"
    gate_loss_drop_percent: int | None = None


@dataclass(frozen=True, slots=True)
class InstanceWish:
    """What to rent."""

    provider: str
    gpu: str | None = None
    gpu_count: int = 1
    image: str | None = None
    region: str | None = None
    instance_id: str | None = None
    system_disk_gb: int | None = None
    data_disk_gb: int | None = None
    max_price_micros_per_hour: int | None = None
    work_dir: str | None = None
    keep_for_ms: int = 7 * 86_400_000
    after_finish: str = "pause"


@dataclass(frozen=True, slots=True)
class UploadWish:
    """A local file or directory, and where it goes, relative to the job's folder there."""

    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class Run:
    """What to run on the instance, as argument lists; `{python}` is found over there."""

    argv: tuple[str, ...]
    output_dir: str = "output"
    needs: tuple[str, ...] = ()
    uploads: tuple[UploadWish, ...] = ()
    save_grace_ms: int = 60_000
    expects_adapter: bool = False  # exit 0 counts as finished only with a verified adapter


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A whole job. `cap_micros` is the job's budget at submission."""

    name: str
    project: str
    cap_micros: int
    best_effort: bool
    instance: InstanceWish
    runs: tuple[Run, ...]
    stages: tuple[Stage, ...] = (Stage(),)
    guards: GuardLimits = field(default_factory=GuardLimits)
    pull_to: str = "artifacts"
    lease_ms: int = 900_000
    long_leases: bool = False  # where an agent is proven, a lease may span the budget
    telemetry_window_ms: int = 5_000
    source: str = ""  # the job file it came from, for messages
    drill: bool = False  # what is rented is left alone until its lease ends: see daemon/drills

    def to_json(self) -> str:
        """The spec as one JSON text, as the database keeps it."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


def spec_from_json(text: str) -> JobSpec:
    """The spec that `JobSpec.to_json` wrote."""
    data: dict[str, Any] = json.loads(text)
    runs = tuple(
        Run(
            argv=tuple(run["argv"]),
            output_dir=run["output_dir"],
            needs=tuple(run["needs"]),
            uploads=tuple(UploadWish(**upload) for upload in run["uploads"]),
            save_grace_ms=run["save_grace_ms"],
            expects_adapter=run["expects_adapter"],
        )
        for run in data.pop("runs")
    )
    return JobSpec(
        instance=InstanceWish(**data.pop("instance")),
        stages=tuple(Stage(**stage) for stage in data.pop("stages")),
        guards=GuardLimits(**data.pop("guards")),
        runs=runs,
        **data,
    )


def model_of(spec_json: str) -> str | None:
    """The model that a stored job trains, as its command line says; None where it names none."""
    argv: list[str] = json.loads(spec_json)["runs"][0]["argv"]
    flag = "--model_name_or_path"
    return argv[argv.index(flag) + 1] if flag in argv[:-1] else None
