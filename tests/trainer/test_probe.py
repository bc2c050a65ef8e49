"""`python -m trainer plan`: measured in a process of its own, kept for `train`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from trainer import plan as plans
from trainer.__main__ import main
from trainer.exits import FINISHED, USAGE
from trainer.train import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.config import Config

pytestmark = pytest.mark.torch


def arguments(config: Config) -> list[str]:
    return [
        *("--model_name_or_path", config.model_name_or_path, "--dataset", str(config.dataset)),
        *("--output_dir", str(config.output_dir), "--quantization_bit", "4", "--max_steps", "8"),
        *("--threads", "1"),
    ]


def test_it_measures_keeps_and_is_used(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Several plans, the one with the fewest seconds chosen, and what it cost; train takes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = make_config(per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert main(["plan", *arguments(config), "--json"]) == FINISHED
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(told["tried"]) > 1
    assert told["chosen"]["run_s"] == min(facts["run_s"] for facts in told["tried"])
    assert told["probe_s"] > 0
    kept = json.loads(plans.cache_path().read_bytes())
    assert [entry["plan"] for entry in kept.values()] == [told["chosen"]["plan"]]
    chosen = {**told["chosen"]["plan"], "pack_tokens": 333}  # a value that no estimate has
    plans.remember(next(iter(kept)), plans.from_json(chosen), {})
    assert run(config) == FINISHED
    assert "passes of up to 333 tokens" in capsys.readouterr().out
    assert not (tmp_path / "output" / "checkpoint-0").exists()


def test_what_the_probe_refuses_is_said(
    make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, not a traceback."""
    config = make_config(model_name_or_path="/nowhere/at/all")
    assert main(["plan", *arguments(config)]) == USAGE
    assert "no such model directory" in capsys.readouterr().err
