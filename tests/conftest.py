"""What holds for every test: a home of its own, and no address but this machine's."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# A busy machine is no fault of the code: examples are bounded in number, not in time.
settings.register_profile("quiet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quiet")

# Started in the background by a shell, this process ignores Ctrl-C, and so would each that a test
# starts to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPBACK = ("127.", "::1", "localhost")


class AddressRefusedError(AssertionError):
    """A test wanted to reach something that is not on this machine."""


@pytest.fixture(autouse=True)
def _no_address_but_loopback() -> Iterator[None]:
    """Connecting or sending to any other address fails, in this process.

    Patched for each test anew: a plugin may put the plain socket back between two.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _private_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test ever sees the home of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSTGUARD_HOME", str(tmp_path_factory.mktemp("private") / "home"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _english() -> Iterator[None]:
    """Whoever runs the tests may read Chinese; what they compare is English unless they say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGUAGE", "en")
        yield


def _guarded(call: Any) -> Any:
    def checked(sock: socket.socket, *args: Any) -> Any:
        address = args[-1]
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if not host.startswith(LOOPBACK):
                raise AddressRefusedError(f"a test wanted to reach {host}")
        return call(sock, *args)

    return checked
