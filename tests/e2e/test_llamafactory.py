"""The real LLaMA-Factory, on a tiny model: `make test-llamafactory` installs it and runs this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent import foreign
from costguard.jobfile import load_job
from tests.e2e import house as houses
from tests.e2e.house import ROOT, House, house

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = os.environ.get("COSTGUARD_LLAMAFACTORY_PYTHON")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(PYTHON is None, reason="make test-llamafactory installs it"),
]
STEPS = 40
JOB = """[job]
name = "job"
budget_yuan = 20
[instance]
provider = "local"
python = "{python}"
[training]
engine = "llamafactory"
model_name_or_path = "model"
model_source = "path"
dataset = "train.jsonl"
template = "qwen"
quantization_bit = {bits}
max_steps = {steps}
per_device_train_batch_size = 2
learning_rate = 1e-3
lora_rank = 8
cutoff_len = 128
save_steps = 10
logging_steps = 1
use_cpu = true
[artifacts]
pull_to = "artifacts"
[advanced]
lease = "5m"
"""


def furnish(at: House) -> Path:
    """A tiny model, made offline by the trainer's own command, and rows to train it on."""
    rows = [
        {"instruction": f"问题 {number}: how long?", "input": "", "output": f"回答 {number} days"}
        for number in range(64)
    ]
    data = at.home / "train.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    words = ["make-model", "--out", str(at.home / "model"), "--data", str(data)]
    subprocess.run([sys.executable, "-m", "trainer", *words], cwd=ROOT, check=True)
    path = at.home / "job.toml"
    path.write_text(JOB.format(python=PYTHON, bits=4, steps=STEPS))
    return path


def events(at: House, kind: str) -> list[dict[str, Any]]:
    """The job's events of one kind."""
    return [each for each in at.ask("events", job="job")["events"] if each["kind"] == kind]


def test_a_job_of_the_real_one_is_paused_resumed_and_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It saves nothing at a pause; a torn newest checkpoint is skipped for the one before."""
    monkeypatch.setattr(houses, "DEADLINE_S", 900.0)
    with house() as at:
        job = furnish(at)
        at.start_daemon()
        at.ask("submit", spec=load_job(job).to_json(), key="job")
        at.wait(lambda: whole_step(at) >= 20)
        at.wait(lambda: at.row()["step"] % 10 >= 2)
        at.ask("pause", job="job")
        row = at.wait_final()
        assert (row["state"], row["pause_reason"]) == ("paused", "user")
        (ended,) = events(at, "training_ended")
        lost = ended["data"]["steps_lost"]
        assert 0 < lost < 20, ended
        assert f"{lost} steps are lost" in ended["text"]

        (output,) = at.home.glob("localcloud/instances/*/work/costguard/*/stage-0/output")
        before, torn = sorted(output.glob("checkpoint-*"), key=step_of)[-2:]
        foreign.check(before, step_of(before))
        os.truncate(torn / "optimizer.pt", 1000)
        at.ask("resume", job="job")
        last = row["step"]
        row = at.wait_final()
        assert row["state"] == "finished", json.dumps(at.ask("explain", job="job"), indent=1)
        assert row["step"] == STEPS
        started = events(at, "training_started")
        again = last - step_of(before)
        assert [each["data"]["steps_lost"] for each in started] == [0, again]
        assert started[1]["text"] == (
            f"training goes on from {before.name}; {again} steps are trained again"
        )
        assert (output / f"torn-{torn.name}").is_dir()
        adapter = at.home / "artifacts" / "job" / "adapter"
        assert (adapter / "adapter_model.safetensors").stat().st_size > 0
        assert json.loads((adapter / "manifest.json").read_text())["step"] == STEPS
        at.assert_books(100_000)


def whole_step(at: House) -> int:
    """The step of the last checkpoint, if it is whole."""
    last = at.row()["last_checkpoint"]
    return int(last["step"]) if last and last["complete"] else 0


def step_of(checkpoint: Path) -> int:
    """The step that it is named after."""
    return int(checkpoint.name.rpartition("-")[2])
