"""What every fake platform shares: machines that change only when told, faults, and an ear.

A fake speaks its platform's wire format over real HTTP on loopback. Time stands still in it, so
that a test decides when a transition is complete; it shares no code with the adapters.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

NOW_S = 1_793_750_400
HOLD_S = 20.0
AUTH_TROUBLES: tuple[str, ...] = ("wrong", "expired", "unverified", "arrears", "region")


@dataclass
class Machine:
    """One rented machine as it really is."""

    id: str
    tag: str
    gpu: str
    count: int = 1
    power: str = "starting"  # starting, running, stopping, stopped, gone, or a word of the test's
    boots: int = 1
    created_s: int = NOW_S
    timer_s: int | None = None
    charge: str = "payg"
    asked: dict[str, Any] = field(default_factory=dict)  # the create request

    @property
    def port(self) -> int:
        """Where its SSH server listens at this boot."""
        return 30_000 + self.boots


@dataclass
class Call:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        body = json.loads(self.text)
        assert isinstance(body, dict)
        return body

    @property
    def form(self) -> dict[str, str]:
        """The body as a form."""
        return dict(parse_qsl(self.text, keep_blank_values=True, strict_parsing=True))

    @property
    def all_text(self) -> str:
        """Everything that could have been written down about it, but for its headers."""
        return f"{self.method} {self.path} {self.query} {self.text}"


@dataclass
class Reply:
    """What goes back; `body` is sent as JSON unless it is bytes."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """Trouble on some calls of a route: before the call takes effect, or after it has."""

    route: str
    kind: str  # 500, 429, cut, slow, html, list, empty
    after: bool = False
    times: int = 10**6
    headers: dict[str, str] = field(default_factory=dict)


class FakePlatform:
    """The server, its machines, and what was asked of it. Subclasses speak one wire format."""

    secrets: tuple[str, ...] = ("planted-secret/+=Zm9v",)
    routes: tuple[str, ...] = ()  # the routes that are broken one by one
    tells: tuple[str, ...] = AUTH_TROUBLES  # the troubles that it has words for

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.habits: set[str] = set()  # how it misbehaves beside plain faults, in words
        self.now_s = NOW_S
        self.clock_off_s = 0  # how far its clock is ahead of ours
        self.price = "15.5"
        self.trouble: str | None = None  # one of AUTH_TROUBLES
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        cast("Any", self._server).platform = self
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """End it; held calls are let go."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ------------------------------------------------------------------ what a test does

    def fail(self, route: str, kind: str, **options: Any) -> None:
        """Have calls of `route` fail."""
        self.faults.append(Fault(route, kind, **options))

    def settle(self) -> None:
        """Every transition under way is complete."""
        for machine in self.machines.values():
            machine.power = {"starting": "running", "stopping": "stopped"}.get(
                machine.power, machine.power
            )

    def add(self, tag: str, power: str = "stopped", **options: Any) -> Machine:
        """A machine that somebody made in the console."""
        number = len(self.machines) + 1
        machine = Machine(self.new_id(number), tag, self.gpu_id(), power=power, **options)
        self.machines[machine.id] = machine
        return machine

    def only(self) -> Machine:
        """The one machine there is."""
        (machine,) = self.machines.values()
        return machine

    def reach(self, machine: Machine) -> tuple[str, int]:
        """Where a machine is reached at this boot."""
        return "127.0.0.1", machine.port

    # ------------------------------------------------------------------ what a platform has

    def new_id(self, number: int) -> str:
        """Instance ids as this platform writes them."""
        return f"i-{number}"

    def gpu_id(self) -> str:
        """What this platform calls an RTX 3090."""
        return "RTX 3090"

    def route_of(self, call: Call) -> str:
        """The name of what is asked for."""
        raise NotImplementedError

    def answer(self, route: str, call: Call) -> Reply:
        """Do it."""
        raise NotImplementedError

    def make(self, tag: str, gpu: str, count: int, asked: dict[str, Any]) -> Machine:
        """A machine that was rented just now."""
        machine = self.add(tag, "starting", created_s=self.now_s, count=count, asked=asked)
        machine.gpu = gpu
        return machine

    def switch_on(self, machine: Machine) -> None:
        """It starts, and will be reached at another port."""
        machine.power, machine.boots = "starting", machine.boots + 1

    def switch_off(self, machine: Machine) -> None:
        """It begins to stop."""
        machine.power, machine.timer_s = "stopping", None

    def handle(self, call: Call) -> Reply | None:
        """One call, with its faults; None cuts the line without a word."""
        with self._lock:
            route = self.route_of(call)
            self.calls.append(call)
            self.counts[route] += 1
            fault = next((f for f in self.faults if f.route == route and f.times > 0), None)
            if fault is None:
                return self.answer(route, call)
            fault.times -= 1
            if fault.after:
                self.answer(route, call)
        if fault.kind == "slow":
            self._released.wait(HOLD_S)
        bodies: dict[str, Any] = {
            "html": b"<html>maintenance</html>",
            "list": [],
            "empty": {},
            "null": b"null",
        }
        if fault.kind in bodies:
            return Reply(bodies[fault.kind])
        if fault.kind.isdecimal():
            return self.failure(int(fault.kind), fault.headers)
        return None

    def failure(self, status: int, headers: dict[str, str]) -> Reply:
        """How it says that it failed, or that calls are too many."""
        return Reply(b"busy", status, headers)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        call = Call(
            self.command,
            parts.path,
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            dict(self.headers),
            self.rfile.read(length).decode(),
        )
        platform: FakePlatform = cast("Any", self.server).platform
        reply = platform.handle(call)
        self.close_connection = True
        if reply is None:
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        if reply.status == 204:
            body = b""
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            return  # the caller has given up waiting: that is what some tests are about

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  (http.server's names)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The platform's own time, not this machine's."""
        del timestamp
        platform: FakePlatform = cast("Any", self.server).platform
        return formatdate(platform.now_s + platform.clock_off_s, usegmt=True)

    def log_message(self, *_: object) -> None:
        """Quiet."""
