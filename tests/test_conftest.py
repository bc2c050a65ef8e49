from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


@pytest.mark.parametrize("call", ["connect", "connect_ex"])
def test_no_test_can_reach_another_machine(call: str) -> None:
    """An address that is not loopback is refused before a packet leaves."""
    with socket.socket() as sock, pytest.raises(AssertionError, match=r"192\.0\.2\.1"):
        getattr(sock, call)(("192.0.2.1", 80))


def test_no_test_can_send_a_datagram_to_another_machine() -> None:
    """Nor without a connection."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(AssertionError, match=r"192\.0\.2\.1"),
    ):
        sock.sendto(b"x", ("192.0.2.1", 53))


def test_loopback_can_be_reached() -> None:
    """The guard lets through what the tests are made of."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_the_home_is_private_to_the_tests() -> None:
    """Never the home of the person who runs them."""
    assert Path.home() not in Path(os.environ["COSTGUARD_HOME"]).parents


def test_no_test_speaks_the_language_of_whoever_runs_it() -> None:
    """The trainer's own processes inherit it."""
    assert os.environ["LANGUAGE"] == "en"
