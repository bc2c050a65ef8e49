from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from costguard.localcloud import launch
from tests.localcloud.world import Client, Clock, CloudWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK = ("--start-s", "0", "--stop-s", "0")


@pytest.fixture
def clock() -> Clock:
    """A clock that the test moves."""
    return Clock()


@pytest.fixture
def make_world(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., CloudWorld]]:
    """Clouds with machines that are not real, closed at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> CloudWorld:
            return stack.enter_context(CloudWorld(tmp_path, clock, **options).open())

        yield make


@pytest.fixture
def world(make_world: Callable[..., CloudWorld]) -> CloudWorld:
    """A cloud with machines that are not real and the usual options."""
    return make_world()


@pytest.fixture
def start_platform(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Real platforms on one home, ended with everything they ran."""
    clients: list[Client] = []

    def start(*options: str, parent_fd: int | None = None) -> Client:
        running = launch.start(tmp_path / "home", *QUICK, *options, parent_fd=parent_fd)
        clients.append(Client(running))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
        client.running.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One real platform for all tests of a module that do not disturb each other."""
    client = Client(launch.start(tmp_path_factory.mktemp("localcloud"), *QUICK))
    yield client
    client.close()
    client.running.stop()


@pytest.fixture(scope="module")
def instance(shared: Client) -> dict[str, Any]:
    """A running instance of the shared platform."""
    return shared.create()
