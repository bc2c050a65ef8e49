from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.providers.rigs import RIGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.providers.rigs import Rig


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The platform that the test is parametrised with, by name."""
    made = RIGS[request.param]()
    yield made
    made.cloud.close()
