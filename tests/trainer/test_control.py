"""`control.json`: what a run is told while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trainer.control import Control

if TYPE_CHECKING:
    from pathlib import Path


def replace_with(tmp_path: Path, text: str) -> None:
    temporary = tmp_path / "new"
    temporary.write_text(text)
    temporary.replace(tmp_path / "control.json")


def test_it_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    """Absent, written, replaced, removed."""
    control = Control(tmp_path)
    assert control.stop_at_step() is None
    replace_with(tmp_path, '{"stop_at_step": 7}')
    assert control.stop_at_step() == 7
    replace_with(tmp_path, '{"stop_at_step": 9}')
    assert control.stop_at_step() == 9
    (tmp_path / "control.json").unlink()
    assert control.stop_at_step() is None


@pytest.mark.parametrize("text", ["{", "[]", '{"stop_at_step": "7"}', '{"stop_at_step": true}'])
def test_what_is_not_understood_is_said_once(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And stops nothing."""
    replace_with(tmp_path, text)
    control = Control(tmp_path)
    assert control.stop_at_step() is None
    assert control.stop_at_step() is None
    assert capsys.readouterr().err.count("passed over") == 1
