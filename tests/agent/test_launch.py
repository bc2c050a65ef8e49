from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.agent.environment import MARKER
from costguard.agent.interpreters import Interpreter
from costguard.agent.launch import surroundings
from costguard.agent.spec import parse_spec

if TYPE_CHECKING:
    from pathlib import Path

LEAST = {"run_id": "r", "argv": ["true"]}


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An instance's home with nothing fetched yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_fetched_is_kept_on_the_persistent_disk(at_home: Path) -> None:
    """Unless the image or the order says where, or a cache is there already."""
    spec = parse_spec({**LEAST, "caches": "caches"})
    (at_home / ".cache" / "modelscope").mkdir(parents=True)
    assert surroundings(spec, None, {"HF_HOME": "/x"}) == {
        "COSTGUARD_MODELS": str(at_home / "caches" / "models")
    }
    assert surroundings(parse_spec(LEAST), None, {}) == {}


def test_an_environment_of_ours_is_first_on_path(at_home: Path) -> None:
    """As an activated one; the image's own Python is left as it is found."""
    python = Interpreter(str(at_home / "bin" / "python"), "3.11", {})
    assert surroundings(parse_spec(LEAST), python, {"PATH": "/usr/bin"}) == {}
    (at_home / MARKER).write_text("{}")
    found = surroundings(parse_spec(LEAST), python, {"PATH": "/usr/bin"})
    assert found == {"VIRTUAL_ENV": str(at_home), "PATH": f"{at_home}/bin:/usr/bin"}
    assert surroundings(parse_spec(LEAST), python, {})["PATH"] == f"{at_home}/bin"
