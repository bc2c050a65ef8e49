from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from costguard.jobfile import load_job
from tests.e2e import house as houses
from tests.e2e.house import ROOT, house
from tests.trainer.hub_server import HubServer, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.torch,
    pytest.mark.skipif(
        not os.environ.get("COSTGUARD_TEST_FULL"), reason="make test-full: half a minute of torch"
    ),
]
JOB = """[job]
name = "job"
budget_yuan = 5
[instance]
provider = "local"
hf_endpoint = "{url}"
[training]
model_name_or_path = "me/tiny"
model_source = "huggingface"
dataset = "train.jsonl"
quantization_bit = 4
max_steps = 6
"""


def test_a_model_is_fetched_on_the_instance_from_the_mirror_of_the_job_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the trainer, over there, into the caches beside the jobs; then it is trained."""
    monkeypatch.setattr(houses, "DEADLINE_S", 300.0)
    with house() as at:
        rows = [
            {"instruction": f"{number}?", "input": "", "output": f"{number}!"}
            for number in range(40)
        ]
        data = at.home / "train.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        words = ["make-model", "--out", str(at.home / "model"), "--data", str(data)]
        subprocess.run([sys.executable, "-m", "trainer", *words], cwd=ROOT, check=True)
        files = {path.name: path.read_bytes() for path in (at.home / "model").iterdir()}
        with running(HubServer("me/tiny", files)) as hub:
            (at.home / "job.toml").write_text(JOB.format(url=hub.url))
            at.start_daemon()
            at.ask("submit", spec=load_job(at.home / "job.toml").to_json(), key="job")
            row = at.wait_final()
        assert row["state"] == "finished", json.dumps(at.ask("explain", job="job"), indent=1)
        assert hub.served["model.safetensors"] == len(files["model.safetensors"])
        assert list(at.home.rglob("costguard/caches/models/me--tiny"))
