from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from costguard.daemon import act, record, rent
from costguard.store.migrate import upgrade
from tests.daemon.world import World
from tests.store.invariants import instrument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the newest schema, to be copied."""
    path = tmp_path_factory.mktemp("template") / "costguard.db"
    upgrade(path)
    return path


@pytest.fixture
def make_world(
    tmp_path_factory: pytest.TempPathFactory, template: Path
) -> Iterator[Callable[..., World]]:
    """Worlds of one's own, each in its own folder."""
    with ExitStack() as stack:

        def make(**options: Any) -> World:
            made = World(tmp_path_factory.mktemp("world"), template, **options)
            stack.callback(made.kill)
            return made

        yield make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world with the usual platform."""
    return make_world()


@pytest.fixture(autouse=True)
def ledger_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every ledger call of these tests is checked before and after; the calls made."""
    return instrument(monkeypatch, act, record, rent)
