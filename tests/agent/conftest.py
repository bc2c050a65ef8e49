from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.harness import Desk, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job's directory, and whatever is started in it ended."""
    made = Job(tmp_path / "job dir")
    yield made
    made.end()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """A supervisor in this process on a clock that the test moves; all it started ended."""
    made: list[Desk] = []

    def make(toy: dict[str, Any] | None = None, **spec: Any) -> Desk:
        made.append(Desk(tmp_path / "desk", toy or {}, **spec))
        return made[-1]

    yield make
    for one in made:
        one.end()
