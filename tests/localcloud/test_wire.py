from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

from costguard.localcloud.server import Server
from tests.localcloud.world import order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.localcloud.world import CloudWorld


class Wire:
    """A cloud behind real HTTP, and a client with either token."""

    def __init__(self, world: CloudWorld) -> None:
        self.world = world
        self.server = Server(0, world.cloud, world.faults, "user-token", "admin-token")
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.session = requests.Session()
        self.session.trust_env = False

    def ask(
        self, method: str, path: str, token: str = "user-token", **options: Any
    ) -> requests.Response:
        """The answer, whatever it is."""
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        return self.session.request(
            method, self.server.url + path, headers=headers, timeout=10, **options
        )

    def set_faults(self, faults: dict[str, Any]) -> None:
        """Set faults through the admin's API."""
        assert self.ask("PUT", "/admin/faults", "admin-token", json=faults).status_code == 200

    def close(self) -> None:
        """End server and client."""
        self.session.close()
        self.server.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def wire(world: CloudWorld) -> Iterator[Wire]:
    """A cloud behind real HTTP."""
    wire = Wire(world)
    yield wire
    wire.close()


def code_of(response: requests.Response) -> tuple[int, str]:
    """Status and error code of an answer."""
    return response.status_code, response.json()["error"]["code"]


def test_whole_life_over_http(wire: Wire) -> None:
    """Every call has its status and shape, from create to release."""
    made = wire.ask("POST", "/v1/instances", json=order(tag="a b"))
    assert made.status_code == 201
    path = f"/v1/instances/{made.json()['id']}"
    wire.world.wait(made.json()["id"], "running")
    assert wire.ask("GET", path).json()["status"] == "running"
    found = wire.ask("GET", "/v1/instances", params={"tag": "a b", "page": 1}).json()
    assert (found["total"], found["instances"][0]["id"]) == (1, made.json()["id"])
    at_ms = wire.world.clock.ms + 60_000
    timer = wire.ask("PUT", path + "/stop_timer", json={"at": at_ms})
    assert (timer.status_code, timer.json()["stop_at_ms"]) == (200, at_ms)
    assert wire.ask("POST", path + "/stop").status_code == 202
    wire.world.wait(made.json()["id"], "stopped")
    assert wire.ask("POST", path + "/start").status_code == 202
    wire.world.wait(made.json()["id"], "running")
    wire.world.stop(made.json()["id"])
    assert wire.ask("DELETE", path).status_code == 200
    assert code_of(wire.ask("GET", path)) == (404, "not_found")
    assert wire.ask("GET", "/v1/bill", params={"instance": made.json()["id"]}).json()["lines"]
    assert wire.ask("GET", "/v1/wallet").json() == {"balance_yuan": "1000.00"}
    assert len(wire.ask("GET", "/v1/offers").json()["offers"]) == 3


@pytest.mark.parametrize(
    ("method", "path", "token", "expected"),
    [
        ("GET", "/v1/offers", "wrong", (401, "unauthorized")),
        ("GET", "/v1/offers", "admin-token", (401, "unauthorized")),
        ("GET", "/admin/truth", "user-token", (401, "unauthorized")),
        ("PUT", "/admin/faults", "user-token", (401, "unauthorized")),
        ("POST", "/guest/power_off", "user-token", (401, "unauthorized")),
        ("GET", "/v2/offers", "user-token", (404, "not_found")),
        ("GET", "/v1/instances/i-none", "user-token", (404, "not_found")),
        ("DELETE", "/v1/offers", "user-token", (405, "method_not_allowed")),
        ("GET", "/v1/instances?page=0", "user-token", (400, "bad_request")),
    ],
)
def test_what_cannot_be_answered(
    wire: Wire, method: str, path: str, token: str, expected: tuple[int, str]
) -> None:
    """Wrong tokens, paths, methods and pages have a status and a code of their own."""
    assert code_of(wire.ask(method, path, token)) == expected


@pytest.mark.parametrize("data", [b"{", b"[]", b'"x"', b"x" * 70_000, b"\xff"])
def test_body_that_is_no_json_object(wire: Wire, data: bytes) -> None:
    """A body that cannot be read is a bad_request, and nothing is rented."""
    assert code_of(wire.ask("POST", "/v1/instances", data=data)) == (400, "bad_request")
    assert wire.world.cloud.list_page(None, 1)["total"] == 0


def test_unknown_fault_is_refused(wire: Wire) -> None:
    """The admin too is told what was wrong."""
    answer = wire.ask("PUT", "/admin/faults", "admin-token", json={"fire": True})
    assert code_of(answer) == (400, "bad_request")
    assert "fire" in answer.json()["error"]["message"]


def test_faults_are_merged_and_read_back(wire: Wire) -> None:
    """PUT merges, GET shows."""
    wire.set_faults({"http_500": {"count": 0}})
    wire.set_faults({"slow_stop_s": 0.5})
    shown = wire.ask("GET", "/admin/faults", "admin-token").json()
    assert {name: fault["set"] for name, fault in shown.items()} == {
        "http_500": {"count": 0},
        "slow_stop_s": 0.5,
    }


def test_too_many_requests(wire: Wire) -> None:
    """http_429: with Retry-After if asked for, and the call has no effect."""
    wire.set_faults({"http_429": {"count": 1, "retry_after": 7}})
    answer = wire.ask("POST", "/v1/instances", json=order())
    assert code_of(answer) == (429, "rate_limited")
    assert answer.headers["Retry-After"] == "7"
    assert wire.ask("GET", "/v1/instances").json()["total"] == 0
    wire.set_faults({"http_429": True})
    assert "Retry-After" not in wire.ask("GET", "/v1/wallet").headers


@pytest.mark.parametrize(("fault", "rented"), [(True, 0), ({"after_effect": True}, 1)])
def test_internal_error(wire: Wire, fault: Any, rented: int) -> None:
    """http_500: without an effect, or with it if asked for."""
    wire.set_faults({"http_500": fault})
    assert code_of(wire.ask("POST", "/v1/instances", json=order())) == (500, "internal")
    wire.set_faults({"http_500": False})
    assert wire.ask("GET", "/v1/instances").json()["total"] == rented


@pytest.mark.parametrize(("fault", "rented"), [("timeout_before", 0), ("timeout_after", 1)])
def test_connection_that_is_held_and_dropped(wire: Wire, fault: str, rented: int) -> None:
    """timeout_before drops without an effect, timeout_after with it; neither answers."""
    wire.set_faults({fault: {"count": 1, "hold_s": 0.1}})
    begun = time.monotonic()
    with pytest.raises(requests.ConnectionError):
        wire.ask("POST", "/v1/instances", json=order())
    assert time.monotonic() - begun >= 0.1
    assert wire.ask("GET", "/v1/instances").json()["total"] == rented


def test_answer_that_takes_long(wire: Wire) -> None:
    """answer_delay_s: the effect comes at once, the answer late."""
    wire.set_faults({"answer_delay_s": {"value": 0.1, "routes": ["wallet"]}})
    begun = time.monotonic()
    wire.ask("GET", "/v1/wallet")
    assert time.monotonic() - begun >= 0.1


def test_admin_is_never_hit(wire: Wire) -> None:
    """With every fault of the wire set, the admin is answered, and one route can be spared."""
    wire.set_faults({"http_429": True, "http_500": True, "timeout_before": {"hold_s": 0}})
    assert wire.ask("GET", "/admin/truth", "admin-token").status_code == 200
    wire.set_faults({name: {"routes": ["stop"]} for name in ("http_429", "timeout_before")})
    wire.set_faults({"http_500": {"routes": ["stop"]}})
    assert wire.ask("GET", "/v1/wallet").status_code == 200


def test_wrong_token_uses_up_no_fault(wire: Wire) -> None:
    """Only a call that would have been made can be hit."""
    wire.set_faults({"http_500": {"count": 1}})
    assert wire.ask("GET", "/v1/wallet", "wrong").status_code == 401
    assert wire.ask("GET", "/v1/wallet").status_code == 500


def test_requests_are_counted_by_route(wire: Wire) -> None:
    """The truth tells how often each route was asked, hit by a fault or not."""
    wire.set_faults({"http_500": {"count": 1}})
    for _ in range(3):
        wire.ask("GET", "/v1/wallet")
    wire.ask("GET", "/v1/offers")
    truth = wire.ask("GET", "/admin/truth", "admin-token").json()
    assert truth["requests"] == {"wallet": 3, "offers": 1}


def test_connection_is_kept_open(wire: Wire) -> None:
    """Several calls, errors among them, go over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", wire.server.server_port, timeout=10)
    connection.connect()
    local = connection.sock.getsockname()
    for path in ("/v1/wallet", "/v1/nothing", "/v1/offers"):
        connection.request("GET", path, headers={"Authorization": "Bearer user-token"})
        json.loads(connection.getresponse().read())
        assert connection.sock.getsockname() == local
    connection.close()


@pytest.mark.parametrize("name", ["Transfer-Encoding", "Content-Length"])
def test_body_of_unknown_length_is_refused(wire: Wire, name: str) -> None:
    """Chunked bodies and lengths that are no numbers are a bad_request."""
    answer = wire.ask("POST", "/v1/instances", headers={name: "chunked"}, data=b"")
    assert code_of(answer) == (400, "bad_request")
