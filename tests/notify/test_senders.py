from __future__ import annotations

import importlib
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from costguard.errors import UserError
from costguard.notify import dingtalk, feishu, webhook
from costguard.notify.base import Message, Undelivered
from costguard.notify.by_apprise import by_apprise
from costguard.notify.dingtalk import DingTalk
from costguard.notify.feishu import Feishu
from costguard.notify.serverchan import ServerChan
from costguard.notify.wecom import WeCom
from tests.notify.conftest import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from costguard.notify.base import Sender
    from tests.notify.conftest import Webhook

SECRET = "SEC-sign-with-this"
NOW_MS = 1_795_536_000_123
MESSAGE = Message("costguard", "kefu 已暂停\n第二行")
MAKERS: dict[str, Callable[[str], Sender]] = {
    "wecom": WeCom,
    "dingtalk": lambda url: DingTalk(url, SECRET),
    "feishu": lambda url: Feishu(url, SECRET),
    "serverchan": ServerChan,
}
# What each answers with HTTP 200 where it did not take the message.
REFUSALS: dict[str, dict[str, Any]] = {
    "wecom": {"errcode": 93000, "errmsg": "invalid webhook url, hint: [1]"},
    "dingtalk": {"errcode": 310000, "errmsg": "sign not match"},
    "feishu": {"code": 19021, "msg": "sign match fail or timestamp is not within one hour"},
    "serverchan": {"code": 40001, "message": "[AUTH] bad pushkey", "data": {}},
}
SIGNED = ("dingtalk", "feishu")
# Apprise's own imports warn on some Pythons.
with_apprise = pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")
every_kind = pytest.mark.parametrize("kind", MAKERS)


def undelivered(sender: Sender) -> Undelivered:
    """Why a message was not taken."""
    with pytest.raises(Undelivered) as caught:
        sender.send(MESSAGE, NOW_MS)
    return caught.value


@every_kind
def test_what_is_taken_is_taken(kind: str, hook: Webhook) -> None:
    """The body says 0; title and text are in what was sent."""
    MAKERS[kind](hook.url).send(MESSAGE, NOW_MS)
    (got,) = hook.requests
    assert "kefu 已暂停" in str(got.body)
    assert "costguard" in str(got.body)


@every_kind
def test_an_error_inside_of_http_200_is_no_success(kind: str, hook: Webhook) -> None:
    """The body's own code decides, and its words are told."""
    hook.says(**REFUSALS[kind])
    said = str(undelivered(MAKERS[kind](hook.url)))
    assert said.startswith("HTTP 200 with ")
    assert str(next(iter(REFUSALS[kind].values()))) in said


@every_kind
@pytest.mark.parametrize(
    "body",
    [
        "",
        "ok",
        "[]",
        "{}",
        "null",
        '{"errcode": "0", "code": "0"}',
        '{"errcode": false, "code": false}',
        '{"errcode": null, "code": null}',
        '{"StatusCode": 0}',
        b"\xff\xfe",
    ],
)
def test_a_body_without_the_number_0_is_no_success(
    kind: str, body: str | bytes, hook: Webhook
) -> None:
    """Anything else may mean anything."""
    hook.body = body
    undelivered(MAKERS[kind](hook.url))


@every_kind
@pytest.mark.parametrize("status", [301, 400, 403, 404, 429, 500, 502])
def test_another_status_is_no_success_whatever_the_body_says(
    kind: str, status: int, hook: Webhook
) -> None:
    """A proxy may have written it; redirects are not followed with the key in hand."""
    hook.status = status
    hook.headers["Location"] = hook.url
    assert str(undelivered(MAKERS[kind](hook.url))) == f"HTTP {status}"
    assert len(hook.requests) == 1


@every_kind
@pytest.mark.parametrize("habit", ["hang", "cut", "cut_body"])
def test_a_line_that_hangs_or_breaks_is_no_success(kind: str, habit: str, hook: Webhook) -> None:
    """It may have been taken: it is sent again all the same."""
    hook.behave(habit)
    assert str(undelivered(MAKERS[kind](hook.url))).startswith("no answer: ")


@every_kind
def test_nobody_listening_is_no_success(kind: str) -> None:
    """Refused at once."""
    assert "no answer" in str(undelivered(MAKERS[kind](f"http://127.0.0.1:9/send?key={KEY}")))


def test_too_many_requests_wait_as_long_as_is_said(hook: Webhook) -> None:
    """Retry-After where it is given, a minute where it is not."""
    hook.status = 429
    assert undelivered(WeCom(hook.url)).retry_after_s == 60
    hook.headers["Retry-After"] = "120"
    assert undelivered(WeCom(hook.url)).retry_after_s == 120


@pytest.mark.parametrize(
    ("kind", "answer", "wait_s"),
    [
        ("wecom", {"errcode": 45009, "errmsg": "api freq out of limit"}, 60),
        ("dingtalk", {"errcode": 130101, "errmsg": "send too fast"}, 600),
        ("feishu", {"code": 9499, "msg": "too many request"}, 60),
        ("feishu", {"code": 11232, "msg": "frequency limited"}, 60),
    ],
)
def test_a_limit_told_inside_of_http_200_is_waited_for(
    kind: str, answer: dict[str, Any], wait_s: int, hook: Webhook
) -> None:
    """Calling on would only make it longer."""
    hook.says(**answer)
    assert undelivered(MAKERS[kind](hook.url)).retry_after_s == wait_s


def test_a_flood_is_not_read_to_its_end(hook: Webhook) -> None:
    """Whatever it is that answers there."""
    hook.body = b"x" * (webhook.ANSWER_BYTES_MAX + 2_000)
    assert "without end" in str(undelivered(WeCom(hook.url)))


def test_an_answer_that_drips_is_not_waited_for(
    hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece comes within the read time-out, the whole never does."""
    monkeypatch.setattr(webhook, "ANSWER_WITHIN_S", -1)
    assert "without end" in str(undelivered(WeCom(hook.url)))


@every_kind
@pytest.mark.parametrize("trouble", ["hang", "cut", "refused", "echo", "bad_address"])
def test_no_secret_comes_out_again(
    kind: str, trouble: str, hook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the error, its traceback, its causes, a log at any level, or a repr."""
    caplog.set_level(logging.DEBUG)
    url = hook.url
    if trouble in ("hang", "cut"):
        hook.behave(trouble)
    elif trouble == "echo":
        text = f"no such robot {url} {KEY} {SECRET if kind in SIGNED else ''}"
        hook.says(errcode=1, errmsg=text, code=1, msg=text, message=text)
    elif trouble == "refused":
        url = f"http://127.0.0.1:9/send?key={KEY}"
    else:
        url = f"nonsense://{KEY}"
    sender = MAKERS[kind](url)
    error = undelivered(sender)
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(sender) + caplog.text
    assert KEY not in shown
    assert SECRET not in shown


def test_dingtalks_signature_is_that_of_its_manual(hook: Webhook) -> None:
    """Milliseconds, over `timestamp newline secret`, beside the token in the address.

    The value is one that others publish for the example of the manual.
    """
    DingTalk(hook.url, SECRET).send(MESSAGE, NOW_MS)
    query = hook.requests[0].query
    assert query == {
        "key": KEY,
        "timestamp": str(NOW_MS),
        "sign": dingtalk.signature(SECRET, NOW_MS),
    }
    assert dingtalk.signature("this is secret", 1_577_262_236_757) == (
        "hmPWwU+7lVdm3ZZz0r9tSfx0L4Q26jWOZr9+Gs6EZQM="
    )


def test_feishus_signature_is_that_of_its_manual(hook: Webhook) -> None:
    """Seconds; the text is the key, and what is signed is empty."""
    Feishu(hook.url, SECRET).send(MESSAGE, NOW_MS)
    body = hook.requests[0].body
    assert body["timestamp"] == str(NOW_MS // 1_000)
    assert body["sign"] == feishu.signature(SECRET, NOW_MS // 1_000)
    assert feishu.signature("demo-secret", 1_599_360_473) == (
        "3/MaVZ8JLIy4TUG+7KSFJqvUkTKd+HWY8g+56DZWq8s="
    )


def test_without_a_secret_nothing_is_signed(hook: Webhook) -> None:
    """A robot that is secured by key words or addresses."""
    DingTalk(hook.url).send(MESSAGE, NOW_MS)
    Feishu(hook.url).send(MESSAGE, NOW_MS)
    assert hook.requests[0].query == {"key": KEY}
    assert "sign" not in hook.requests[1].body


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("SCT123abc", "https://sctapi.ftqq.com/SCT123abc.send"),
        ("sctp42tabc", "https://42.push.ft07.com/send/sctp42tabc.send"),
        ("https://example.org/x.send", "https://example.org/x.send"),
    ],
)
def test_serverchans_address_follows_from_its_key(key: str, url: str) -> None:
    """Turbo, ServerChan3, and whatever its page shows."""
    assert ServerChan(key)._url == url


def test_serverchan_keeps_lines_apart_and_loses_no_title(hook: Webhook) -> None:
    """Its text is Markdown, and its titles are short."""
    ServerChan(hook.url).send(Message("T" * 40, "a\nb"), NOW_MS)
    body = hook.requests[0].body
    assert body["title"] == "T" * 32
    assert body["desp"] == f"{'T' * 40}\n\na\n\nb"


@with_apprise
def test_apprise_delivers_to_everything_else(hook: Webhook) -> None:
    """Here its plain JSON; every address has to take it."""
    address = hook.url.replace("http://", "json://").partition("?")[0]
    sender = by_apprise(f"{address}\n")
    sender.send(MESSAGE, NOW_MS)
    assert hook.requests[0].body["message"] == MESSAGE.text
    half = by_apprise(f"{address}\njson://127.0.0.1:9/")
    assert "not delivered" in str(undelivered(half))
    hook.status = 500
    assert "not delivered" in str(undelivered(sender))


@with_apprise
def test_apprise_is_not_asked_for_what_it_gets_wrong() -> None:
    """It takes HTTP 200 with an error inside for success."""
    with pytest.raises(UserError) as caught:
        by_apprise(f"dingtalk://{KEY}/")
    assert caught.value.hint == 'kind = "dingtalk"'
    assert KEY not in str(caught.value)


@with_apprise
def test_an_address_that_apprise_does_not_know_is_refused() -> None:
    """Named by its number: it may hold a secret."""
    with pytest.raises(UserError, match="address 2") as caught:
        by_apprise(f"json://127.0.0.1/\nnonsense:{KEY}")
    assert KEY not in str(caught.value)


def test_without_apprise_the_others_work_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional package."""

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match="not installed") as caught:
        by_apprise("json://127.0.0.1/")
    assert caught.value.hint == "pip install apprise"


@with_apprise
def test_a_plug_in_that_crashes_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does its text come out, which may hold an address."""
    sender = by_apprise("json://127.0.0.1/")

    def crash(**_: object) -> bool:
        raise RuntimeError(KEY)

    monkeypatch.setattr(sender.target, "notify", crash)
    error = undelivered(sender)
    assert str(error) == "Apprise failed: RuntimeError"
    assert KEY not in "".join(traceback.format_exception(error))
