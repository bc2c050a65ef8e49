"""A stage with a job that trains nothing: what is measured is costguard, not torch."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.cli.client import ask, ask_daemon
from costguard.jobfile import load_job
from costguard.store.database import read_only_session
from costguard.store.models import Event, Job, Telemetry

if TYPE_CHECKING:
    from costguard.demo.stage import Stage

SCRIPT = """
import hashlib, json, os, sys, time
steps, pause_s, adapter_bytes = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
os.makedirs("output", exist_ok=True)
for step in range(1, steps + 1):
    time.sleep(pause_s)
    with open("output/trainer_log.jsonl", "a") as log:
        row = {"current_steps": step, "total_steps": steps, "loss": 3 / step}
        log.write(json.dumps(row) + "\\n")
if adapter_bytes:
    os.makedirs("output/tmp")
    body = os.urandom(adapter_bytes)
    open("output/tmp/adapter_model.safetensors", "wb").write(body)
    digest = hashlib.sha256(body).hexdigest()
    entry = {"name": "adapter_model.safetensors", "size": len(body), "sha256": digest}
    open("output/tmp/manifest.json", "w").write(json.dumps({"step": steps, "files": [entry]}))
    os.rename("output/tmp", "output/adapter")
"""
FINAL = ("paused", "finished", "failed", "released")
WAIT_S = 120.0
POLL_S = 0.05


def submit(
    on: Stage,
    name: str,
    *,
    steps: int = 3,
    pause_s: float = 0.05,
    adapter_bytes: int = 0,
    budget_yuan: int = 2,
) -> str:
    """Submit a toy job; returns its name."""
    folder = on.home / "toy"
    folder.mkdir(exist_ok=True)
    (folder / "toy.py").write_text(SCRIPT, encoding="utf-8")
    words = ["{python}", "toy.py", str(steps), str(pause_s), str(adapter_bytes)]
    command = ", ".join(f'"{word}"' for word in words)
    (folder / "job.toml").write_text(
        f"""[job]
name = "{name}"
project = "bench"
budget_yuan = {budget_yuan}
[instance]
provider = "local"
[training]
engine = "command"
command = [{command}]
upload = ["toy.py"]
[artifacts]
pull_to = "{on.home / "artifacts"}"
[advanced]
save_grace = "5s"
""",
        encoding="utf-8",
    )
    spec = load_job(Path(folder / "job.toml"))
    ask_daemon("submit", {"spec": spec.to_json(), "key": str(uuid.uuid4())}, 60)
    return name


def row_of(name: str) -> dict[str, Any]:
    """The job's status row."""
    row: dict[str, Any] = ask("status", {"job": name})["jobs"][0]
    return row


def wait_for(name: str, *states: str) -> dict[str, Any]:
    """The job's status row, once it is in one of `states`."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        row = row_of(name)
        if row["state"] in states:
            return row
        time.sleep(POLL_S)
    raise TimeoutError(f"{name} is still {row_of(name)['state']}, not {states}")


def exit_and_stop_ms(on: Stage, name: str) -> tuple[int, int]:
    """When the training process ended, and when its stop call was accepted (UTC ms)."""
    with read_only_session(on.home / "costguard.db") as session:
        job = session.query(Job).filter_by(name=name).one()
        exits = session.query(Telemetry).filter_by(job_id=job.id, kind="exit").one()
        ended_ms = int(json.loads(exits.data_json)["ended_at_ms"])
        stops = session.query(Event).filter_by(job_id=job.id, kind="stop_call")
        return ended_ms, stops.order_by(Event.id).first().at_ms  # type: ignore[union-attr]
