from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.store.database import Store
from costguard.store.migrate import upgrade
from tests.store.invariants import instrument

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the newest schema, to be copied."""
    path = tmp_path_factory.mktemp("template") / "costguard.db"
    upgrade(path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    monkeypatch.setenv("COSTGUARD_HOME", str(place))
    return place


@pytest.fixture
def store(home: Path, template: Path) -> Iterator[Store]:
    """A home's database with nothing in it."""
    path = home / "costguard.db"
    path.write_bytes(template.read_bytes())
    opened = Store(path)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The books of these tests hold too."""
    instrument(monkeypatch)
