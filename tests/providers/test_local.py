from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

import pytest

from costguard.core.calendar import Window
from costguard.core.moment import Moment
from costguard.core.power import Power
from costguard.core.tariff import Discount, Tariff
from costguard.errors import UserError
from costguard.localcloud import launch
from costguard.localcloud.hostkeys import generate
from costguard.localcloud.rules import Offer, Rules
from costguard.providers import open_provider
from costguard.providers.base import (
    Absent,
    AuthRefused,
    CreateRequest,
    InstanceView,
    NoCapacity,
    ProviderError,
    Refused,
    Unclear,
)
from costguard.providers.local import LocalProvider, endpoint_settings, tariff_from_wire
from tests.localcloud.world import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 15.0
NOW = Moment(1_793_750_400_000, 5_000, "boot")
PUBLIC_KEY = generate()[1]
OPTIONS = ("--start-s", "0", "--stop-s", "0", "--disk-price", "0.1", "--quantum-s", "60")
TAG = "costguard-here-1-1"
DAY = "2026-10-01"
CHANGING = ("create", "start", "stop", "delete", "timer")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One real platform for all of these."""
    client = Client(launch.start(tmp_path_factory.mktemp("cloud"), *OPTIONS, "--stock", "100"))
    yield client
    client.close()
    assert client.running.stop() == 0


@pytest.fixture
def provider(cloud: Client) -> Iterator[LocalProvider]:
    """The adapter; afterwards no fault is left set."""
    running = cloud.running
    yield LocalProvider(running.url, running.token, read_timeout_s=0.3)
    names = [*cloud.call("GET", "/admin/faults", admin=True)]
    cloud.call("PUT", "/admin/faults", admin=True, json=dict.fromkeys(names))


def fault(cloud: Client, **faults: Any) -> None:
    """Have the platform misbehave."""
    cloud.call("PUT", "/admin/faults", admin=True, json=faults)


def request(**changes: Any) -> CreateRequest:
    """What the daemon would ask for."""
    usual: dict[str, Any] = {
        "name": "costguard-job",
        "tag": TAG,
        "gpu": "RTX 3090",
        "gpu_count": 1,
        "image": None,
        "region": None,
        "ssh_public_key": PUBLIC_KEY,
        "stop_at_ms": int(time.time() * 1_000) + 600_000,
        "max_price_micros_per_hour": None,
    }
    return CreateRequest(**{**usual, **changes})


def wait_for(provider: LocalProvider, instance_id: str, power: Power) -> InstanceView:
    """The instance once it is in that state."""
    deadline = time.monotonic() + DEADLINE_S
    while (view := provider.read(instance_id, NOW)).read.power is not power:
        assert time.monotonic() < deadline, f"still {view.read.power}"
        time.sleep(0.005)
    return view


def rent(provider: LocalProvider, **changes: Any) -> InstanceView:
    """An instance, as soon as it runs."""
    return wait_for(provider, provider.create(request(**changes), NOW).id, Power.RUNNING)


def test_the_life_of_an_instance(provider: LocalProvider) -> None:
    """Rented with its timer, on, off, on again at another port, given back, absent."""
    asked = request(tag="costguard-life-1-1")
    made = provider.create(asked, NOW)
    assert (made.tag, made.gpu, made.read.timer_at_ms) == (asked.tag, "RTX 3090", asked.stop_at_ms)
    on = wait_for(provider, made.id, Power.RUNNING)
    assert on.read.is_charging
    assert on.read.charged_since_ms is not None
    assert on.read.charged_until_ms is None
    assert on.ssh is not None
    assert on.ssh.host_keys[0].startswith("ssh-")
    provider.stop(made.id)
    off = wait_for(provider, made.id, Power.STOPPED)
    assert not off.read.is_charging
    assert off.read.charged_until_ms is not None
    assert off.ssh is None
    provider.start(made.id)
    again = wait_for(provider, made.id, Power.RUNNING)
    assert again.ssh is not None
    assert again.read.charged_since_ms is not None
    assert again.read.charged_since_ms >= off.read.charged_until_ms
    provider.stop(made.id)
    wait_for(provider, made.id, Power.STOPPED)
    assert (provider.bill_micros(made.id) or 0) >= 2 * 250_000
    provider.release(made.id)
    with pytest.raises(Absent):
        provider.read(made.id, NOW)


def test_the_quote_is_the_tariff_that_is_billed(provider: LocalProvider) -> None:
    """Price, quantum and disk price as whole numbers; names without regard to case."""
    quote = provider.quote("rtx 3090")
    assert quote.tariff == Tariff(15_000_000, 60, 100_000)
    assert (quote.gpu, quote.in_stock) == ("RTX 3090", True)
    assert provider.quote(None).gpu == "RTX 3090"
    assert rent(provider).tariff == quote.tariff


def test_every_billing_rule_is_read_from_the_wire() -> None:
    """As the platform shows it; an older platform's answer has the usual rules."""
    rules = Rules("per_clock", 120, 10_000, "UTC", (Offer(50, 82_800, 25_200), Offer(80, day=DAY)))
    item = {"price_yuan_per_hour": "15.00", "billing": rules.as_json(60)}
    discounts = (Discount(500, Window(82_800, 25_200)), Discount(800, Window(dates=(DAY,))))
    assert tariff_from_wire(json.loads(json.dumps(item))) == Tariff(
        15_000_000,
        60,
        by_clock=True,
        minimum_s=120,
        minimum_micros=10_000,
        zone="UTC",
        discounts=discounts,
    )
    old = {"price_yuan_per_hour": "15.00", "billing": {"quantum_s": 60, "rounding": "per_start"}}
    assert tariff_from_wire(old) == Tariff(15_000_000, 60)


def test_an_unknown_gpu_is_refused_with_those_there_are(provider: LocalProvider) -> None:
    """A definite no, and a way out."""
    with pytest.raises(Refused, match=r"there are: RTX 3090, A10, A100"):
        provider.quote("H900")


def test_the_timer_is_read_back_by_a_call_of_its_own(
    provider: LocalProvider, cloud: Client
) -> None:
    """What it was set to is not believed; what it is, is asked."""
    view = rent(provider)
    at_ms = int(time.time() * 1_000) + 900_000
    assert provider.arm_timer(view.id, at_ms) == at_ms
    fault(cloud, timer_lost=True)
    assert provider.arm_timer(view.id, at_ms + 60_000) == at_ms


def test_off_and_still_charged_is_not_stopped(provider: LocalProvider, cloud: Client) -> None:
    """The platform's `off` is off_billing while its meter runs, and stopped afterwards."""
    view = rent(provider)
    fault(cloud, off_but_billing=True)
    provider.stop(view.id)
    off = wait_for(provider, view.id, Power.OFF_BILLING)
    assert off.read.is_charging
    fault(cloud, off_but_billing=None)
    assert not wait_for(provider, view.id, Power.STOPPED).read.is_charging


def test_a_price_change_is_seen(provider: LocalProvider, cloud: Client) -> None:
    """Of what runs, and of what could be rented."""
    view = rent(provider)
    fault(cloud, price="21.5")
    assert provider.read(view.id, NOW).tariff.price_micros_per_hour == 21_500_000
    assert provider.quote(None).tariff.price_micros_per_hour == 21_500_000


def test_lists_give_every_page_of_our_tag_and_nothing_else(
    provider: LocalProvider, cloud: Client
) -> None:
    """More than one page of them, and a stranger's."""
    fault(cloud, slow_start_s=600)  # none of them need come up
    ours = {provider.create(request(tag=f"costguard-pages-1-{n}"), NOW).id for n in range(23)}
    provider.create(request(tag="costguard-stranger-1-1"), NOW)
    found = provider.list_tagged("costguard-pages-", NOW)
    assert {view.id for view in found} == ours
    assert len(found) == 23


def test_reads_carry_when_they_were_begun(provider: LocalProvider) -> None:
    """The proof of a stop rests on it."""
    view = rent(provider)
    assert provider.read(view.id, NOW).read.begun == NOW
    assert provider.list_tagged(TAG, NOW)[0].read.begun == NOW


def test_what_is_not_there_is_absent(provider: LocalProvider) -> None:
    """For every call that names an instance."""
    calls: list[Callable[[], object]] = [
        lambda: provider.read("i-none", NOW),
        lambda: provider.start("i-none"),
        lambda: provider.stop("i-none"),
        lambda: provider.release("i-none"),
        lambda: provider.arm_timer("i-none", NOW.utc_ms),
        lambda: provider.bill_micros("i-none"),
    ]
    for call in calls:
        with pytest.raises(Absent):
            call()


def test_no_capacity_is_told_apart_from_other_refusals(
    provider: LocalProvider, cloud: Client
) -> None:
    """One is waited out, the other is final."""
    fault(cloud, no_capacity=True)
    with pytest.raises(NoCapacity):
        provider.create(request(), NOW)
    fault(cloud, no_capacity=None)
    with pytest.raises(Refused) as refused:
        provider.create(request(max_price_micros_per_hour=1_000_000), NOW)
    assert not isinstance(refused.value, NoCapacity)


def test_a_wrong_token_is_refused(cloud: Client) -> None:
    """A person is needed; nothing is unclear about it."""
    with pytest.raises(AuthRefused):
        LocalProvider(cloud.running.url, "wrong").quote(None)


@pytest.mark.parametrize("kind", ["http_500", "http_429"])
@pytest.mark.parametrize("route", ["get", "list", "offers", "create", "stop", "timer", "bill"])
def test_failures_of_the_platform_are_unclear(
    kind: str, route: str, provider: LocalProvider, cloud: Client
) -> None:
    """Nobody knows whether the call took effect; how long to wait is kept where it is told."""
    view = rent(provider)
    fault(cloud, **{kind: {"routes": [route]}})
    with pytest.raises(Unclear):
        _call(provider, route, view.id)


def test_how_long_to_wait_is_kept(provider: LocalProvider, cloud: Client) -> None:
    """`Retry-After` of a 429."""
    fault(cloud, http_429={"routes": ["offers"], "retry_after": 7})
    with pytest.raises(Unclear) as unclear:
        provider.quote(None)
    assert unclear.value.retry_after_s == 7


@pytest.mark.parametrize("kind", ["timeout_before", "timeout_after"])
@pytest.mark.parametrize("route", ["create", "stop"])
def test_a_call_without_an_answer_is_unclear_and_made_once(
    kind: str, route: str, provider: LocalProvider, cloud: Client
) -> None:
    """With the effect or without: found out by reading."""
    tag = f"costguard-{kind}-{route}-1"
    view = rent(provider, tag=tag)
    before = cloud.truth()["requests"].get(route, 0)
    fault(cloud, **{kind: {"routes": [route], "count": 1, "hold_s": 1}})
    with pytest.raises(Unclear):
        _call(provider, route, view.id, tag=f"{tag}-2")
    happened = kind == "timeout_after"
    deadline = time.monotonic() + DEADLINE_S
    while cloud.truth()["requests"].get(route, 0) == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if route == "create":
        assert len(provider.list_tagged(f"{tag}-2", NOW)) == happened
    elif happened:
        wait_for(provider, view.id, Power.STOPPED)
    else:
        assert provider.read(view.id, NOW).read.power is Power.RUNNING
    assert cloud.truth()["requests"][route] == before + 1


def _call(provider: LocalProvider, route: str, instance_id: str, tag: str = TAG) -> object:
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: provider.read(instance_id, NOW),
        "list": lambda: provider.list_tagged(TAG, NOW),
        "offers": lambda: provider.quote(None),
        "create": lambda: provider.create(request(tag=tag), NOW),
        "stop": lambda: provider.stop(instance_id),
        "timer": lambda: provider.arm_timer(instance_id, request().stop_at_ms or 0),
        "bill": lambda: provider.bill_micros(instance_id),
    }
    return calls[route]()


# --------------------------------------------------------------------------- answers nobody means


class _Garbled(BaseHTTPRequestHandler):
    """Answers every call with what the test put on the server."""

    def do_GET(self) -> None:
        status, body, headers = cast("Any", self.server).answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  (the names that http.server calls)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def garbled(status: int, body: bytes, **headers: str) -> Iterator[LocalProvider]:
    """The adapter to a platform that always answers this."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Garbled)
    cast("Any", server).answer = (status, body, headers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield LocalProvider(f"http://127.0.0.1:{server.server_port}", "t", read_timeout_s=1)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


ITEM = (
    b'{"id": "i-1", "tag": "t", "gpu": "A10", "status": "running", "charging": true, '
    b'"price_yuan_per_hour": "20", "charged_since_ms": 1, "charged_until_ms": null, '
    b'"stop_at_ms": null, "ssh": null, "created_at_ms": 1, "work_dir": "/w"}'
)


NO_ANSWERS = (b"", b"<html>maintenance</html>", b"[]", b"null", b"{}")
NO_INSTANCES = (
    ITEM.replace(b'"20"', b'"a lot"'),
    ITEM.replace(b'"20"', b"null"),
    ITEM.replace(b'"ssh": null', b'"ssh": {"host": "h"}'),
)
GARBLED = [
    *[(route, body) for route in ("list", "offers", "timer", "bill") for body in NO_ANSWERS],
    *[(route, body) for route in ("get", "create") for body in NO_ANSWERS + NO_INSTANCES],
]


@pytest.mark.parametrize(("route", "body"), GARBLED)
def test_an_answer_that_is_not_understood_is_unclear(route: str, body: bytes) -> None:
    """A proxy's page or a changed API must not end the pass that would have stopped something."""
    with garbled(200, body) as provider, pytest.raises(Unclear):
        _call(provider, route, "i-1")


def test_the_answer_that_the_others_are_broken_from_is_understood() -> None:
    """A status nobody knows is unknown, and unknown may charge."""
    with garbled(200, ITEM.replace(b"running", b"dozing")) as provider:
        read = provider.read("i-1", NOW).read
    assert read.power is Power.UNKNOWN
    assert read.is_charging


def test_a_stop_needs_no_words_to_be_accepted() -> None:
    """204, or a body that is none of ours: 2xx is accepted, the proof is in the reads."""
    with garbled(204, b"") as provider:
        provider.stop("i-1")


OWN_WORDS: dict[int, type[ProviderError]] = {
    400: Refused,
    401: AuthRefused,
    403: AuthRefused,
    404: Absent,
    409: Refused,
    429: Unclear,
    500: Unclear,
    503: Unclear,
}


@pytest.mark.parametrize("status", OWN_WORDS)
def test_a_no_counts_in_the_platforms_own_words_only(status: int) -> None:
    """A gateway's 404 is no absent instance, and its 409 no proof that nothing was rented."""
    own = b'{"error": {"code": "some_code", "message": "why"}}'
    with garbled(status, own) as provider, pytest.raises(ProviderError) as raised:
        provider.stop("i-1")
    assert type(raised.value) is OWN_WORDS[status]
    for body in (b"", b"<html></html>", b'{"error": "text"}', b'{"error": null}', b"[]"):
        with garbled(status, body) as provider, pytest.raises(Unclear):
            provider.stop("i-1")


def test_a_redirect_does_not_carry_the_token_elsewhere() -> None:
    """It is followed by no second call; what it means is unclear."""
    with garbled(302, b"", Location="http://127.0.0.1:9/") as provider, pytest.raises(Unclear):
        provider.quote(None)


def test_nobody_listening_is_unclear() -> None:
    """A refused connection says nothing of the instance."""
    with pytest.raises(Unclear):
        LocalProvider("http://127.0.0.1:9", "t").stop("i-1")


def test_a_retry_after_that_is_a_date_is_left_to_our_own_back_off() -> None:
    """Only seconds are taken."""
    headers = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    with garbled(429, b"", **headers) as provider, pytest.raises(Unclear) as unclear:
        provider.quote(None)
    assert unclear.value.retry_after_s is None


# --------------------------------------------------------------------------- settings


def test_settings_make_the_adapter() -> None:
    """Every figure of the table reaches it."""
    settings = {
        "base_url": "http://127.0.0.1:1/",
        "token": "t",
        "poll_interval_s": "0.5",
        "stop_latency_s": 7,
    }
    facts = open_provider("local", settings).facts
    assert (facts.poll_interval_ms, facts.stop_latency_ms) == (500, 7_000)
    assert facts.in_guest_stop_proven


def test_an_unknown_provider_is_refused_with_those_there_are() -> None:
    """What, where, what to do."""
    with pytest.raises(UserError, match=r"one of: .*local") as refused:
        open_provider("cloudy", {})
    assert refused.value.code == "unknown_provider"


def test_the_endpoint_file_is_read_as_the_platform_wrote_it(cloud: Client, tmp_path: Path) -> None:
    """Address and token; None where there is none, or it is half written."""
    assert endpoint_settings(tmp_path) is None
    (tmp_path / "endpoint.json").write_text("{", encoding="utf-8")
    assert endpoint_settings(tmp_path) is None
    (tmp_path / "endpoint.json").write_text('{"url": "u", "token": "t"}', encoding="utf-8")
    assert endpoint_settings(tmp_path) == {"base_url": "u", "token": "t"}
