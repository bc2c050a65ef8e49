from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.remote.openssh import OpenSsh, sshd_path
from tests.remote.ssh_server import Machine, Proxy
from tests.remote.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """An instance with an SSH server in this process."""
    made = Machine(tmp_path / "instance" / "home")
    yield made
    made.close()


def start_openssh(home: Path) -> OpenSsh:
    """OpenSSH's sshd, running; skips the test where there is none, or it cannot run."""
    if sshd_path() is None:
        pytest.skip("OpenSSH's sshd is not installed")
    made = OpenSsh(home)
    if reason := made.why_not():
        made.close()
        pytest.skip(f"sshd cannot run here: {reason}")
    made.start()
    return made


@pytest.fixture
def openssh(tmp_path: Path) -> Iterator[OpenSsh]:
    """An instance behind the server that real instances have."""
    made = start_openssh(tmp_path / "instance" / "home")
    yield made
    made.close()


@pytest.fixture(params=["paramiko", "openssh"])
def any_machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine | OpenSsh]:
    """An instance behind each of the two servers; OpenSSH's where it is installed."""
    home = tmp_path / "instance" / "home"
    made = Machine(home) if request.param == "paramiko" else start_openssh(home)
    yield made
    made.close()


@pytest.fixture
def make_proxy() -> Iterator[Callable[[int], Proxy]]:
    """Lines that can be cut, frozen, or made slow."""
    made: list[Proxy] = []

    def make(port: int) -> Proxy:
        made.append(Proxy(port))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Whatever a test starts on the instance, ended."""
    made = World(tmp_path)
    yield made
    made.end()
