"""A tiny model, made once, and configs that train it in a second."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainer.config import Config
from trainer.data import read_dataset
from trainer.disk import Disk
from trainer.make_model import build
from trainer.publish import publish_directory

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = Path(__file__).parents[2] / "trainer" / "examples" / "kefu" / "train.jsonl"
RECIPE = {
    "hidden": 64,
    "layers": 1,
    "intermediate": 64,
    "vocab_size": 400,
    "max_positions": 512,
    "seed": 0,
}


@pytest.fixture(scope="session")
def rows() -> Path:
    """The data set that ships with the trainer: real text."""
    return ROWS


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the smallest model that has all of Qwen2's parts."""
    directory = tmp_path_factory.mktemp("model") / "tiny"
    files = build(RECIPE, read_dataset(ROWS).samples)
    publish_directory(Disk(), directory, files, {"kind": "model"})
    return directory


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 22 rows of the data set: with 4 samples a step, an epoch of 6 steps."""
    path = tmp_path_factory.mktemp("data") / "few.jsonl"
    lines = ROWS.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:22]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, few_rows: Path
) -> dict[int | None, Path]:
    """The --output_dir of a run on NF4 (by 4) and of one on the base as it is (by None)."""
    from trainer.exits import FINISHED
    from trainer.train import run

    found: dict[int | None, Path] = {}
    for bits in (4, None):
        found[bits] = tmp_path_factory.mktemp("trained") / "output"
        config = Config(
            model_name_or_path=str(tiny_model),
            dataset=few_rows,
            output_dir=found[bits],
            default_system="你是客服。",
            quantization_bit=bits,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=1,
            learning_rate=3e-2,
            max_steps=12,
            threads=1,
        )
        assert run(config) == FINISHED
    return found


@pytest.fixture(autouse=True)
def quiet_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not add lines to a test's log: none comes for the time that passed."""
    monkeypatch.setattr("trainer.train.SILENT_AT_MOST_S", math.inf)


@pytest.fixture
def make_config(tiny_model: Path, few_rows: Path, tmp_path: Path) -> Callable[..., Config]:
    """A Config of 8 steps, 4 samples each, in two micro-batches; keywords change it."""

    def make(**changes: object) -> Config:
        fields: dict[str, object] = {
            "model_name_or_path": str(tiny_model),
            "dataset": few_rows,
            "output_dir": tmp_path / "output",
            "default_system": "你是客服。",
            "quantization_bit": 4,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "max_steps": 8,
            "logging_steps": 1,
            "threads": 1,
            **changes,
        }
        return Config(**fields)  # type: ignore[arg-type]

    return make
