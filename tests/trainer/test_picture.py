from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from trainer.picture import curves, draw

if TYPE_CHECKING:
    from pathlib import Path

LOG = """\
{"current_steps": 1, "loss": 3.0}
{"current_steps": 2, "loss": 9.0}
{"current_steps": 2, "eval_loss": 2.5, "phase": "evaluate"}
{"current_steps": 2, "loss": 2.0}
{"current_steps": 3, "loss": null}
"""


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    (tmp_path / "trainer_log.jsonl").write_text(LOG)
    return tmp_path


def test_the_curves_are_the_logs(output_dir: Path) -> None:
    """A step done again after a resume counts as last done; null is no point."""
    assert curves(output_dir / "trainer_log.jsonl") == ({1: 3.0, 2: 2.0}, {2: 2.5})


def test_it_draws_a_picture(output_dir: Path) -> None:
    """A PNG, and nothing half-written beside it."""
    pytest.importorskip("matplotlib")
    assert draw(output_dir)
    assert (output_dir / "training_loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (output_dir / ".training_loss.png").exists()


def test_without_matplotlib_nothing_is_drawn(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an option, not a need."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw(output_dir)
    assert not (output_dir / "training_loss.png").exists()
