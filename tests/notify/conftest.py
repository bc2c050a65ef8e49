"""A webhook at the wire: it answers as told, hangs, or hangs up, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from costguard.notify import webhook
from costguard.notify.channels import Channel
from costguard.notify.wecom import WeCom
from costguard.store.database import Store
from costguard.store.migrate import upgrade
from tests.notify.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "s3cr3t-key-0451"


@dataclass
class Received:
    """One request."""

    path: str
    query: dict[str, str]
    body: dict[str, Any]


@dataclass
class Webhook:
    """What the server answers next; after the last one it goes on answering the same."""

    url: str = ""
    status: int = 200
    body: str | bytes = '{"errcode": 0, "errmsg": "ok", "code": 0, "msg": "success"}'
    headers: dict[str, str] = field(default_factory=dict)
    habit: str = "answer"  # hang, cut (before an answer), cut_body (in the midst of one)
    requests: list[Received] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def behave(self, habit: str) -> None:
        """From now on; one that hangs is waited for only as long as a test can wait."""
        self.habit = habit
        webhook.READ_TIMEOUT_S = 0.3 if habit == "hang" else 10  # type: ignore[assignment]

    def says(self, **answer: Any) -> None:
        """Answer HTTP 200 with this body."""
        self.status, self.body = 200, json.dumps(answer, ensure_ascii=False)

    @property
    def texts(self) -> list[str]:
        """The text of each message, wherever that kind of channel has it."""
        return [
            str(
                got.body.get("text", {}).get("content")
                or got.body.get("content", {}).get("text")
                or got.body.get("desp")
            )
            for got in self.requests
        ]


def handler_of(webhook: Webhook) -> type[BaseHTTPRequestHandler]:
    """A handler that behaves as the webhook is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            sent = json.loads(self.rfile.read(length) or b"{}")
            webhook.requests.append(Received(parts.path, query, sent))
            if webhook.habit == "hang":
                webhook.let_go.wait(20)
            if webhook.habit in ("hang", "cut"):
                self.close_connection = True
                return
            body = webhook.body if isinstance(webhook.body, bytes) else webhook.body.encode()
            self.send_response(webhook.status)
            for name, value in webhook.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if webhook.habit == "cut_body" else body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook on this machine, whose address holds a secret key."""
    monkeypatch.setattr(webhook, "READ_TIMEOUT_S", 10)  # put back at the end, whatever a test does
    made = Webhook()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(made))
    made.url = f"http://127.0.0.1:{server.server_address[1]}/send?key={KEY}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.let_go.set()
    server.shutdown()
    thread.join(5)
    server.server_close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database at the newest schema, made once."""
    path = tmp_path_factory.mktemp("schema") / "costguard.db"
    upgrade(path)
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Iterator[Store]:
    """A store on a fresh copy."""
    path = tmp_path / "costguard.db"
    path.write_bytes(empty_database.read_bytes())
    opened = Store(path)
    yield opened
    opened.close()


@pytest.fixture
def home(store: Store, hook: Webhook) -> Home:
    """One channel, in English."""
    return Home(store, [Channel("phone", "en", WeCom(hook.url))])
