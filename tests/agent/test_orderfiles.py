from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent.orderfiles import as_yaml, newest_whole, write_files
from costguard.agent.spec import parse_spec
from tests.agent.foreign_trainer import checkpoint
from tests.agent.test_llamafactory import script

if TYPE_CHECKING:
    from tests.agent.harness import Job


def test_a_yaml_that_every_reader_reads_alike() -> None:
    """Texts quoted, whole numbers whole, and fractions as YAML 1.1 knows them."""
    yaml = pytest.importorskip("yaml")
    config: dict[str, bool | float | str] = {
        "learning_rate": 2e-5,
        "half": 0.5,
        "epochs": 3.0,
        "huge": 1e30,
        "do_train": True,
        "bits": 4,
        "template": "qwen",
        "looks_like": "true",
        "hostile": "$(touch pwned): 'a' \"b\"\n线 #",
    }
    text = as_yaml(config)
    assert yaml.safe_load(text) == config
    assert "learning_rate: 2.0e-05\n" in text


def test_the_newest_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    """A torn one is set aside, where LLaMA-Factory neither takes it nor counts it."""
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10)
    for step in (20, 100):
        (checkpoint(tmp_path, step) / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "torn-checkpoint-20").mkdir()
    assert newest_whole(tmp_path) == "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-10",
        "checkpoint-9",
        "checkpoint-best",
        "torn-checkpoint-100",
        "torn-checkpoint-20",
        "torn-checkpoint-20.2",
    ]
    assert newest_whole(tmp_path / "nothing") is None


def test_only_llamafactory_is_told_in_a_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other engines get their files, and find their checkpoints by themselves."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "output", 5)
    order = {
        "run_id": "r",
        "argv": ["x"],
        "files": {"data/a.json": "线"},
        "config": {"stage": "sft"},
    }
    assert write_files(parse_spec(order)) is None
    assert Path("data/a.json").read_text(encoding="utf-8") == "线"
    assert not Path("llamafactory.yaml").exists()
    assert write_files(parse_spec({**order, "engine": "llamafactory"})) == "checkpoint-5"
    assert Path("llamafactory.yaml").read_text() == (
        'stage: "sft"\nresume_from_checkpoint: "output/checkpoint-5"\n'
    )


def test_a_run_of_llamafactory_is_told_what_to_go_on_from(job: Job, tmp_path: Path) -> None:
    """And tells it; the second attempt finds what the first has saved."""
    keep = "import shutil, sys; shutil.copy(sys.argv[2], 'seen.yaml')"
    script(tmp_path / "bin" / "llamafactory-cli", f"#!{sys.executable}\n{keep}\n")
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    order: dict[str, Any] = {
        "argv": ["{llamafactory}", "llamafactory.yaml"],
        "engine": "llamafactory",
        "config": {"do_train": True},
        "env": {"PATH": path},
    }
    job.order(**order)
    job.start()
    first = job.attach()
    first.lease()
    assert first.wait_for("started")["resumes_from"] is None
    first.wait_for("exit", code=0)
    checkpoint(job.directory / "output", 30)
    job.order(**order, run_id="run-2")
    job.start()
    second = job.attach()
    second.lease()
    assert second.wait_for("started")["resumes_from"] == "checkpoint-30"
    second.wait_for("exit", code=0)
    assert "checkpoint-30" in (job.directory / "seen.yaml").read_text()
    assert json.loads((job.directory / "spec.json").read_text())["run_id"] == "run-2"
