"""The five stories: what each job file says differently, and how it has to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.errors import EXIT_USAGE, UserError

if TYPE_CHECKING:
    from pathlib import Path

HANG_AT_STEP = 10
CRASH_AT_STEP = 8


@dataclass(frozen=True)
class Scenario:
    """One story. `verdict` is the pause reason it must end with."""

    name: str
    story: str
    verdict: str
    budget_yuan: str = "2"
    epochs: int = 2
    hang: str | None = None  # "spin" or "sleep": how the training stops moving
    guards: str = ""
    kills_daemon: bool = False


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("finish", "a healthy run: trained, brought home, switched off", "finished"),
        Scenario(
            "stall",
            f"the training spins without a step from step {HANG_AT_STEP} on, at full CPU",
            "stalled",
            hang="spin",
            guards='stall_floor = "8s"',
        ),
        Scenario(
            "idle",
            f"the training falls asleep after step {HANG_AT_STEP}, and the rent would run on",
            "idle",
            hang="sleep",
            guards='idle_after = "8s"',
        ),
        Scenario(
            "budget",
            "the budget is too small for the whole run: saved and stopped before the cap",
            "budget",
            budget_yuan="0.25",
            epochs=40,
        ),
        Scenario(
            "crash",
            "the daemon is killed with SIGKILL in mid-training and started again",
            "finished",
            kills_daemon=True,
        ),
    )
}


def scenario_named(name: str) -> Scenario:
    """The story of that name; UserError names those there are."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UserError(
            "unknown_scenario",
            f"there is no demo scenario {name!r}",
            "--scenario",
            f"give one of: {', '.join(SCENARIOS)}",
            EXIT_USAGE,
        ) from None


def job_file(scenario: Scenario, artifacts: Path) -> str:
    """The job file of a story, as a person would write it."""
    flags = f"""quantization_bit = 4
double_quantization = true
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
learning_rate = 1e-2
num_train_epochs = {scenario.epochs}
cutoff_len = 256
logging_steps = 1
save_steps = 20
"""
    if scenario.hang is None:
        training = f"""model_name_or_path = "model"
model_source = "path"
dataset = "data/train.jsonl"
{flags}"""
    else:
        command = ["{python}", "hanging_training.py", "--hang", scenario.hang]
        command += ["--at-step", str(HANG_AT_STEP), "--epochs", str(scenario.epochs)]
        quoted = ", ".join(f'"{word}"' for word in command)
        training = f"""engine = "command"
command = [{quoted}]
upload = ["trainer/", "model/", "data/", "hanging_training.py"]
"""
    return f"""[job]
name = "kefu-{scenario.name}"
project = "demo"
budget_yuan = {scenario.budget_yuan}

[instance]
provider = "local"
gpu = "RTX 3090"

[training]
{training}
[guards]
{scenario.guards}

[artifacts]
pull_to = "{artifacts}"

[advanced]
lease = "60s"
save_grace = "10s"
telemetry_window = "2s"
"""
