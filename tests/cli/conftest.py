"""A daemon at the wire: a Unix socket that gives prepared answers, in a home of its own."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from costguard import lang, paths


@dataclass
class FakeDaemon:
    """Answers what `answers` holds; a callable there gets the request's args."""

    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    raw: dict[str, bytes] = field(default_factory=dict)

    def serve(self, server: socket.socket) -> None:
        """Answer one connection after the other until the socket is shut down."""
        while True:
            try:
                connection, _address = server.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                request = json.loads(stream.readline())
                self.requests.append(request)
                stream.write(self._reply(request))

    def asked(self, do: str) -> list[dict[str, Any]]:
        """The args of every request of that name."""
        return [request["args"] for request in self.requests if request["do"] == do]

    def _reply(self, request: dict[str, Any]) -> bytes:
        if request["do"] in self.raw:
            return self.raw[request["do"]]
        answer = self.answers.get(request["do"])
        if callable(answer):
            answer = answer(request["args"])
        if isinstance(answer, dict) and "error" in answer:
            return json.dumps({"ok": False, **answer}).encode() + b"\n"
        if answer is None:
            what = f"unknown request {request['do']}"
            error = {"code": "usage", "what": what, "where": "", "hint": ""}
            return json.dumps({"ok": False, "error": error}).encode() + b"\n"
        return json.dumps({"ok": True, "result": answer}).encode() + b"\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, in English, at 80 columns and without colour."""
    place = tmp_path / "home"
    monkeypatch.setenv("COSTGUARD_HOME", str(place))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.delenv("COLUMNS", raising=False)
    paths.ensure_home()
    yield place
    lang.select("en")


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    """A fake daemon listening on the home's socket; it answers `ping` from the start."""
    fake = FakeDaemon({"ping": {"pid": 4242, "version": "0.1.0"}})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(paths.socket_path()))
        server.listen(8)
        thread = threading.Thread(target=fake.serve, args=(server,))
        thread.start()
        yield fake
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    paths.socket_path().unlink()
