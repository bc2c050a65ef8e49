"""What a person asked for: the job as the daemon stores it, already checked and in whole units.

The job file is read and judged in `costguard.jobfile`; what reaches the daemon is this.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_TUPLES = ("argv", "needs", "requirements", "hosts", "places")


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
    install_within_ms: int = 900_000  # of the time to prepare
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
    # A paused instance of the project's rather than a new one. None: where that is safe, and only
    # if a card is free there; True: waits for one; False: never.
    reuse: bool | None = None
    reused: bool = False  # `instance_id` is such a one: no person named it
    install: bool = True  # what is missing, into an environment of our own on its disk
    packages: tuple[str, ...] = ()  # pip requirements that the job wants in any case
    pip_index: str | None = None  # None: as the image's pip is set up
    hf_endpoint: str | None = None  # a mirror of Hugging Face
    python: str | None = None  # the Python to take over there; None: the first that fits


@dataclass(frozen=True, slots=True)
class UploadWish:
    """A local file or directory, and where it goes, relative to the job's folder there."""

    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a run does beside its steps and when, as its job file says.

    `evaluate_parts_milli` cuts the run into equal parts that each end with an evaluation, in
    thousandths: its epochs. `held_out` are the samples that one evaluation reads.
    """

    evaluate_every: int | None = None  # steps; None: never, if it is not by parts
    evaluate_parts_milli: int | None = None
    evaluates_after: int = 0  # so many evaluations after the last step
    save_every: int | None = None  # steps
    held_out: int | None = None  # None: not known
    samples_per_step: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What to run on the instance, as argument lists; `{python}` is found over there.

    `needs` are modules, `least` their least versions, `requirements` what pip is asked for where
    they are missing. `files` are texts that are written there, by their place; `config` is what
    LLaMA-Factory is told in a file of its own.
    """

    argv: tuple[str, ...]
    output_dir: str = "output"
    needs: tuple[str, ...] = ()
    uploads: tuple[UploadWish, ...] = ()
    save_grace_ms: int = 60_000
    expects_adapter: bool = False  # exit 0 counts as finished only with a verified adapter
    engine: str = "trainer"
    least: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    progress_pattern: str | None = None  # for the output of a command
    hosts: tuple[str, ...] = ()  # where the model comes from, for first contact
    places: tuple[str, ...] = ()  # what is read over there besides the job's own folder
    schedule: Schedule | None = None  # None: not known, as of a command of one's own


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
    pull_bytes_per_s: int | None = None  # a cap on what comes home; None: as fast as it goes
    lease_ms: int = 900_000
    long_leases: bool = False  # where an agent is proven, a lease may span the budget
    telemetry_window_ms: int = 5_000
    source: str = ""  # the job file it came from, for messages
    drill: bool = False  # what is rented is left alone until its lease ends: see daemon/drills

    def to_json(self) -> str:
        """The spec as one JSON text, as the database keeps it."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    def rented_anew(self) -> JobSpec:
        """The job on an instance that is rented for it, whatever it was on or to go on on."""
        wish = replace(self.instance, instance_id=None, reused=False, reuse=False)
        return replace(self, instance=wish)


def spec_from_json(text: str) -> JobSpec:
    """The spec that `JobSpec.to_json` wrote."""
    data: dict[str, Any] = json.loads(text)
    return JobSpec(
        instance=InstanceWish(**_with_tuples(data.pop("instance"), "packages")),
        stages=tuple(Stage(**stage) for stage in data.pop("stages")),
        guards=GuardLimits(**data.pop("guards")),
        runs=tuple(_run(run) for run in data.pop("runs")),
        **data,
    )


def model_of(spec_json: str) -> str | None:
    """The model that a stored job trains, as its command line says; None where it names none."""
    argv: list[str] = json.loads(spec_json)["runs"][0]["argv"]
    flag = "--model_name_or_path"
    return argv[argv.index(flag) + 1] if flag in argv[:-1] else None


def _run(data: dict[str, Any]) -> Run:
    uploads = tuple(UploadWish(**upload) for upload in data.pop("uploads"))
    told = data.pop("schedule", None)
    schedule = None if told is None else Schedule(**told)
    return Run(uploads=uploads, schedule=schedule, **_with_tuples(data, *RUN_TUPLES))


def _with_tuples(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields with their lists as tuples, where they are there: older jobs have fewer."""
    return {key: tuple(value) if key in names else value for key, value in data.items()}
