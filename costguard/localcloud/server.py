"""The platform's HTTP side: JSON over loopback, tokens, and the faults of the wire."""

from __future__ import annotations

import json
import secrets
import socket
import socketserver
import sqlite3
import sys
import threading
import time
from contextlib import suppress
from decimal import Decimal
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from costguard.localcloud import routes
from costguard.localcloud.errors import ApiError, bad_request, not_found
from costguard.localcloud.state import LOOPBACK

if TYPE_CHECKING:
    from costguard.localcloud.cloud import Cloud
    from costguard.localcloud.faults import Faults, Rule

MAX_BODY_BYTES = 65_536
IDLE_CONNECTION_S = 120.0
DEFAULT_HOLD_S = 1.0


class Server(ThreadingHTTPServer):
    """The listener; one thread per connection, none of which keeps the process alive."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int, cloud: Cloud, faults: Faults, token: str, admin_token: str
    ) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.cloud = cloud
        self.faults = faults
        self.tokens = {routes.USER: token, routes.ADMIN: admin_token}
        self.closing = threading.Event()
        self.last_request_at = time.monotonic()

    def server_bind(self) -> None:
        """Bind without the look-up of our own name, which may ask a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://{LOOPBACK}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is told on stderr."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "localcloud"
    timeout = IDLE_CONNECTION_S
    wbufsize = -1  # header and body leave in one segment
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request."""
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base class names them

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the truth report counts requests, and errors reach the client."""

    def _answer(self) -> None:
        self.server.last_request_at = time.monotonic()
        try:
            status, body, headers = self._result()
        except Dropped:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        except ApiError as error:
            status, body, headers = error.status, error.as_json(), error.headers
        except (OSError, sqlite3.Error) as error:
            sys.stderr.write(f"localcloud: {self.command} {self.path}: {error!r}\n")
            storage = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", str(error))
            status, body, headers = storage.status, storage.as_json(), {}
        self._send(status, body, headers)
        self.server.last_request_at = time.monotonic()

    def _result(self) -> tuple[HTTPStatus, dict[str, Any], dict[str, str]]:
        url = urlsplit(self.path)
        body = self._read_body()
        route, instance, exists = routes.find(self.command, url.path)
        if route is None and exists:
            raise ApiError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "method_not_allowed",
                f"{url.path} does not take {self.command}",
            )
        if route is None:
            raise not_found(f"there is no {url.path}")
        self._check_token(route)
        call = routes.Call(
            instance, dict(parse_qsl(url.query)), body, self.headers.get("X-Instance-Token", "")
        )
        if route.who == routes.ADMIN:
            return route.status, route.answer(self.server.cloud, call), {}
        return self._with_faults(route, call)

    def _with_faults(
        self, route: routes.Route, call: routes.Call
    ) -> tuple[HTTPStatus, dict[str, Any], dict[str, str]]:
        """The answer, or what the faults of the wire make of it."""
        faults, name = self.server.faults, route.name
        self.server.cloud.requests[name] += 1
        before = faults.hit("timeout_before", name)
        if before is not None:
            self._hold_and_drop(before)
        limited = faults.hit("http_429", name)
        if limited is not None:
            retry = limited.extras.get("retry_after")
            headers = {} if retry is None else {"Retry-After": f"{retry:g}"}
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", "too many requests", headers
            )
        broken = faults.hit("http_500", name)
        failure = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "something went wrong")
        if broken is not None and not broken.extras.get("after_effect"):
            raise failure
        after = faults.hit("timeout_after", name)
        try:
            answer = route.answer(self.server.cloud, call)
        finally:
            self.server.closing.wait(faults.seconds("answer_delay_s", name))
            if after is not None:
                self._hold_and_drop(after)
        if broken is not None:
            raise failure
        return route.status, answer, {}

    def _hold_and_drop(self, rule: Rule) -> None:
        self.server.closing.wait(rule.extras.get("hold_s", DEFAULT_HOLD_S))
        raise Dropped

    def _check_token(self, route: routes.Route) -> None:
        if route.who == routes.GUEST:
            return  # the instance's own token is looked up with the instance
        given = self.headers.get("Authorization", "").encode()
        expected = f"Bearer {self.server.tokens[route.who]}".encode()
        if not secrets.compare_digest(given, expected):
            raise ApiError(
                HTTPStatus.UNAUTHORIZED, "unauthorized", "the token is missing or not valid here"
            )

    def _read_body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "0")
        if self.headers.get("Transfer-Encoding") or not length.isdecimal():
            self.close_connection = True
            raise bad_request("send a body with its Content-Length")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise bad_request(f"the body is longer than {MAX_BODY_BYTES} bytes")
        data = self.rfile.read(int(length))
        if not data:
            return {}
        try:
            body = json.loads(data, parse_float=Decimal)
        except ValueError:
            raise bad_request("the body is not JSON") from None
        if not isinstance(body, dict):
            raise bad_request("the body is not a JSON object")
        return body

    def _send(self, status: HTTPStatus, body: dict[str, Any], headers: dict[str, str]) -> None:
        data = json.dumps(body, default=float).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
