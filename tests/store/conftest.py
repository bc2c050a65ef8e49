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
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database at the newest schema, made once."""
    path = tmp_path_factory.mktemp("schema") / "costguard.db"
    upgrade(path)
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Iterator[Store]:
    """A store on a fresh copy."""
    path = tmp_path / "costguard.db"
    path.write_bytes(empty_database.read_bytes())
    opened = Store(path)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every ledger call in these tests is checked before and after."""
    return instrument(monkeypatch)
