from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job's directory, and whatever is started in it ended."""
    made = Job(tmp_path / "job dir")
    yield made
    made.end()
