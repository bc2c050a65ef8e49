"""A daemon at the wire: a Unix socket that gives prepared answers, in a home of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from costguard import lang, paths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
            with connection, connection.makefile("rb") as stream:
                request = json.loads(stream.readline())
                self.requests.append(request)
                with contextlib.suppress(ConnectionError):  # a test may have stopped listening
                    connection.sendall(self._reply(request))

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
    """A home of the test's own, in English and UTC, at 80 columns and without colour."""
    place = tmp_path / "home"
    monkeypatch.setenv("COSTGUARD_HOME", str(place))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    paths.ensure_home()
    yield place
    lang.select("en")
    monkeypatch.undo()
    time.tzset()


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


def job_row(**changes: Any) -> dict[str, Any]:
    """A job in training, as the status document has it, with some fields changed."""
    row: dict[str, Any] = {
        "job": "kefu",
        "state": "training",
        "breach": False,
        "pause_reason": None,
        "stage": 0,
        "phase": "train",
        "step": 120,
        "total_steps": 375,
        "loss": 1.8321,
        "eta_s": 1234,
        "forecast_yuan": "12.40",
        "instance": {
            "id": "i-3f2a9b",
            "provider": "local",
            "power": "running",
            "gpu": "RTX 3090",
            "price_yuan_per_hour": "15.00",
            "paid_until": "2025-03-01T12:01:00.000Z",
        },
        "budget": {
            "cap_yuan": "80.00",
            "spent_yuan": "3.2145",
            "reserved_yuan": "3.75",
            "left_yuan": "71.2055",
            "worst_case_yuan": "6.9645",
        },
        "lease_expires_at": "2025-03-01T12:15:00.000Z",
        "enforcers": [
            {"kind": "daemon", "armed": True, "until": None, "proven": True},
            {"kind": "platform_timer", "armed": False, "until": None, "proven": False},
        ],
        "telemetry": {"age_s": 3, "gpu_util_percent": 92, "gpu_memory_percent": 78},
        "last_checkpoint": {"step": 100, "complete": True, "age_s": 42},
    }
    return row | changes


def ended_row(state: str = "finished", reason: str = "finished", **changes: Any) -> dict[str, Any]:
    """A job in a final state, its instance seen stopped."""
    instance = job_row()["instance"] | {"power": "stopped", "paid_until": None}
    return job_row(
        state=state,
        pause_reason=reason,
        phase=None,
        eta_s=None,
        instance=instance,
        lease_expires_at=None,
        **changes,
    )


def status_document(*rows: dict[str, Any], running: bool = True) -> dict[str, Any]:
    """A status document of these jobs."""
    return {
        "schema": "costguard.status/1",
        "as_of": "2025-03-01T12:00:00.000Z",
        "daemon": {"running": running, "pid": 4242 if running else None},
        "jobs": list(rows),
    }


def report_document() -> dict[str, Any]:
    """A report with two jobs, one of them with a long Chinese name."""
    row = {
        "job": "kefu",
        "stage": 0,
        "phase": "train",
        "provider": "local",
        "instance": "i-3f2a9b",
        "gpu": "RTX 3090",
        "hours": "0.163100",
        "price_yuan_per_hour": "15.00",
        "subtotal_yuan": "2.4465",
    }
    return {
        "schema": "costguard.report/1",
        "as_of": "2025-03-01T12:00:00.000Z",
        "currency": "CNY",
        "totals": {
            "billed_hours": "0.214300",
            "spent_yuan": "3.2145",
            "reserved_yuan": "3.75",
            "cap_yuan": "80.00",
            "left_yuan": "71.2055",
            "worst_case_yuan": "6.9645",
            "idle_yuan": "0.00",
            "estimated_yuan": "3.2145",
            "confirmed_yuan": "3.2124",
            "drift_yuan": "-0.0021",
            "overrun_yuan": "0.00",
        },
        "rows": [
            row,
            row | {"job": "客服模型微调第二轮用更长的名字", "subtotal_yuan": "1152.4465"},
        ],
    }


def explain_document(*, confirmed: bool = True) -> dict[str, Any]:
    """Why a job was paused for idling."""
    return {
        "schema": "costguard.explain/1",
        "job": "kefu",
        "state": "paused",
        "pause_reason": "idle",
        "verdicts": [
            {
                "at": "2025-03-01T11:58:00.000Z",
                "guard": "idle",
                "text": "quiet for 300 s in the training phase",
                "evidence": {
                    "windows": 60,
                    "cap_micros": 80_000_000,
                    "quiet_ms": 301_000,
                    "tail": ["step 1  a", "b"],
                },
            }
        ],
        "stop": {
            "seen": ["2025-03-01T11:58:20.000Z", "2025-03-01T11:58:22.000Z"],
            "confirmed_at": "2025-03-01T11:58:22.000Z" if confirmed else None,
        },
        "next": ["look at the log: `costguard logs kefu`"],
    }


@pytest.fixture
def docs() -> SimpleNamespace:
    """The makers of documents above, for tests that need them."""
    return SimpleNamespace(
        job=job_row,
        ended=ended_row,
        status=status_document,
        report=report_document,
        explain=explain_document,
    )
