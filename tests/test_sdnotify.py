from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from costguard.sdnotify import ALIVE, READY, tell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("abstract", [False, True], ids=["file", "abstract"])
def test_the_manager_hears_it(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a socket in the file system, or an abstract one."""
    name = f"@costguard-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert tell(READY)
        assert tell(ALIVE)
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_where_nobody_listens_nothing_happens(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not tell(READY)
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not tell(READY)
