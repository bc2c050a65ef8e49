from __future__ import annotations

import base64
import operator
import threading
import time
from typing import TYPE_CHECKING

import pytest
import requests
from pydantic import SecretStr

from costguard.providers import wire
from costguard.providers.base import Refused, Unclear
from costguard.providers.wire import Dates, Wire, understood
from tests.providers.fakes.platform import Call, FakePlatform, Reply
from tests.providers.rigs import HandClock

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = 'planted/secret+"1'


class Echo(FakePlatform):
    """Says what the test put here."""

    reply = Reply()

    def route_of(self, call: Call) -> str:
        """Everything is one route."""
        return "any"

    def answer(self, route: str, call: Call) -> Reply:
        """The test's own."""
        return self.reply


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server."""
    made = Echo()
    yield made
    made.close()


def to(echo: Echo) -> Wire:
    """The way to it."""
    return Wire(echo.url, secrets=[SecretStr(SECRET)], clock=HandClock())


def test_an_answer_keeps_its_fractions_as_text(echo: Echo) -> None:
    """No price passes through a binary fraction."""
    echo.reply = Reply(b'{"price": 0.1, "count": 3}')
    assert to(echo).call("GET", "/").body == {"price": "0.1", "count": 3}


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_does_not_carry_the_token_elsewhere(echo: Echo, status: int) -> None:
    """It is followed by no second call; what it means is unclear."""
    echo.reply = Reply({}, status, {"Location": "http://127.0.0.1:9/"})
    with pytest.raises(Unclear):
        to(echo).call("GET", "/")
    assert echo.counts.total() == 1


def test_a_no_in_the_platforms_own_words_is_the_adapters_to_judge(echo: Echo) -> None:
    """4xx with JSON in it is an answer; a gateway's page is none."""
    echo.reply = Reply({"code": "x"}, 404)
    assert to(echo).call("GET", "/").status == 404
    echo.reply = Reply(b"<html>", 404)
    with pytest.raises(Unclear):
        to(echo).call("GET", "/")


def test_a_5xx_that_says_a_known_no_is_an_answer(echo: Echo) -> None:
    """Some platforms say "sold out" that way; any other 5xx stays unclear."""
    echo.reply = Reply({"detail": "Not enough free GPUs"}, 500)
    assert to(echo).call("GET", "/", heard=["not enough free gpus"]).status == 500
    with pytest.raises(Unclear):
        to(echo).call("GET", "/", heard=["something else"])


def test_every_form_of_a_secret_is_cut_out(echo: Echo) -> None:
    """Plain, in a URL, in base64, in JSON."""
    own = to(echo)
    coded = base64.b64encode(SECRET.encode()).decode()
    url = requests.compat.quote(SECRET, safe="")
    text = f'a {SECRET} b {coded} c {url} d planted/secret+\\"1 e'
    assert own.redact(text) == "a *** b *** c *** d *** e"
    assert str(own.clean(Refused(f"no {SECRET}"))) == "no ***"
    assert SECRET not in repr(own)


def test_a_server_that_drips_is_cut_off(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the whole never: a pass must not hang on it."""
    monkeypatch.setattr(wire, "WHOLE_CALL_S", 5.0)
    clock = HandClock()
    own = Wire(echo.url, clock=clock)
    echo.reply = Reply(b"{" + b" " * 200_000 + b"}")
    real = requests.Response.iter_content

    def slow(self: requests.Response, size: int) -> Iterator[bytes]:
        for chunk in real(self, size):
            clock.forward(3)
            yield chunk

    monkeypatch.setattr(requests.Response, "iter_content", slow)
    with pytest.raises(Unclear, match="ReadTimeout"):
        own.call("GET", "/")


def test_an_answer_without_end_is_cut_off(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is not a platform's to fill."""
    monkeypatch.setattr(wire, "BODY_MAX_BYTES", 1_000)
    echo.reply = Reply(b"{" + b" " * 2_000 + b"}")
    with pytest.raises(Unclear):
        to(echo).call("GET", "/")


def test_a_platforms_clock_goes_on_from_the_date_of_its_last_answer() -> None:
    """By a clock that nobody sets; what is no date is as if it had not come."""
    clock = HandClock()
    dates = Dates(clock)
    assert dates.now_ms() is None
    dates.hear("Wed, 21 Oct 2026 07:28:00 GMT")
    clock.forward(90.5)
    dates.hear("soon")
    assert dates.now_ms() == 1_792_567_680_000 + 90_500
    dates.hear("Wed, 21 Oct 2026 07:30:00 GMT")
    assert dates.now_ms() == 1_792_567_800_000


def test_time_goes_on_while_this_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight hours of sleep: a date that was heard before them is eight hours old."""
    slept_s = {time.CLOCK_BOOTTIME: 28_800.0, time.CLOCK_MONOTONIC: 0.0}
    dates = Wire("http://platform.example").dates
    dates.hear("Wed, 21 Oct 2026 07:28:00 GMT")
    heard_ms, real = dates.now_ms(), time.clock_gettime
    assert heard_ms is not None
    monkeypatch.setattr(time, "clock_gettime", lambda kind: real(kind) + slept_s[kind])
    assert (dates.now_ms() or 0) - heard_ms >= 28_800_000


def test_a_date_in_retry_after_is_left_to_our_own_back_off(echo: Echo) -> None:
    """A clock that is wrong must not make us wait for a year."""
    echo.reply = Reply({}, 429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    with pytest.raises(Unclear) as unclear:
        to(echo).call("GET", "/")
    assert unclear.value.retry_after_s == 2


def test_what_passes_ends_the_backing_off(echo: Echo) -> None:
    """The next 429 begins anew."""
    clock = HandClock()
    own = Wire(echo.url, clock=clock)
    waits = []
    for status in (429, 429, 200, 429):
        clock.forward(100)
        echo.reply = Reply({}, status)
        try:
            own.call("GET", "/")
        except Unclear as unclear:
            waits.append(unclear.retry_after_s)
    assert waits == [2, 4, 2]


def test_no_proxy_of_the_surroundings_is_used(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here chose it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert to(echo).call("GET", "/").status == 200


def test_a_proxy_of_the_config_is_gone_through(echo: Echo) -> None:
    """It is asked for the whole address."""
    own = Wire("http://platform.example", proxies={"http": echo.url}, clock=HandClock())
    assert own.call("GET", "/x").status == 200
    assert echo.calls[0].path == "/x"
    assert echo.calls[0].headers["Host"] == "platform.example"


def test_two_threads_may_call_at_once(echo: Echo) -> None:
    """Passes of two jobs on one account: neither waits for the other."""
    own = to(echo)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(own.call("GET", "/").status))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.1))
    assert results == [200] * 8


def test_what_is_not_understood_is_unclear_and_shows_no_values() -> None:
    """A password may stand where a number should."""
    with pytest.raises(Unclear) as unclear, understood("thing"):
        int("hidden-word")
    assert "hidden-word" not in str(unclear.value)
    assert unclear.value.__context__ is None
    with pytest.raises(Unclear, match="'port'"), understood("thing"):
        operator.getitem({"host": 1}, "port")
