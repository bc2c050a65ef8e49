from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from costguard.notify.base import Undelivered
from costguard.notify.channels import Channel
from costguard.notify.outbox import GIVE_UP_AFTER_MS, RETRY_S
from costguard.notify.wecom import WeCom
from costguard.settings import NotifySettings
from costguard.store.database import StoreUnavailable
from costguard.store.models import Notice
from tests.notify.conftest import KEY
from tests.notify.home import NOON_MS, Home

if TYPE_CHECKING:
    from pathlib import Path

    from costguard.notify.base import Message
    from costguard.store.database import Store
    from tests.notify.conftest import Webhook


def test_what_was_not_taken_is_not_marked_and_is_tried_again(home: Home, hook: Webhook) -> None:
    """HTTP 200 with an error inside: waiting, with the reason, and later once more."""
    hook.says(errcode=93000, errmsg="invalid webhook url")
    home.event("stop_not_confirmed")
    assert home.run() == 0
    (row,) = home.deliveries
    assert (row.state, row.attempts, row.sent_ms) == ("waiting", 1, None)
    assert row.error == "HTTP 200 with errcode 93000: invalid webhook url"
    assert home.run(RETRY_S[0] - 1) == 0
    assert len(hook.requests) == 1
    hook.says(errcode=0, errmsg="ok")
    assert home.run(1) == 1
    (row,) = home.deliveries
    assert (row.state, row.attempts, row.error) == ("sent", 2, None)


@pytest.mark.parametrize("habit", ["hang", "cut", "cut_body"])
def test_a_line_that_breaks_marks_nothing(habit: str, home: Home, hook: Webhook) -> None:
    """Perhaps it was taken; it may come twice, but it comes."""
    hook.behave(habit)
    home.event("breach", "past the cap")
    home.run()
    assert home.states == ["waiting"]
    hook.behave("answer")
    home.run(RETRY_S[0])
    assert home.states == ["sent"]


def test_the_tries_come_at_longer_and_longer_distances(home: Home, hook: Webhook) -> None:
    """Up to half an hour; what is urgent is never given up."""
    home.settings = NotifySettings.model_validate({"morning": "off"})
    hook.status = 500
    home.event("breach", "past the cap")
    tries = []
    for _ in range(3_000):
        before = len(hook.requests)
        home.run(60)
        if len(hook.requests) > before:
            tries.append(home.now_ms)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 1_000 * RETRY_S[-1]
    assert home.states == ["waiting"]
    assert home.now_ms - NOON_MS > GIVE_UP_AFTER_MS


def test_what_is_not_urgent_is_given_up_after_a_day_and_shown_as_that(
    home: Home, hook: Webhook
) -> None:
    """Never as sent."""
    hook.status = 500
    home.event("training_started")
    home.run()
    for _ in range(60):
        home.run(1_800)
    assert home.states[0] == "given_up"
    assert home.deliveries[0].sent_ms is None
    hook.status = 200
    before = len(hook.requests)
    home.run(60)
    assert not any("begun to train" in told for told in hook.texts[before:])


def test_a_429_is_waited_out(home: Home, hook: Webhook) -> None:
    """As long as the server asks for."""
    hook.status = 429
    hook.headers["Retry-After"] = "300"
    home.event("breach", "past the cap")
    home.run()
    home.run(299)
    assert len(hook.requests) == 1
    hook.status = 200
    assert home.run(1) == 1


def test_one_channel_that_fails_keeps_no_other_waiting(store: Store, hook: Webhook) -> None:
    """Each has its own state for each notice."""
    dead = Channel("dead", "en", WeCom(f"http://127.0.0.1:9/send?key={KEY}"))
    home = Home(store, [dead, Channel("phone", "en", WeCom(hook.url))])
    home.event("breach", "past the cap")
    assert home.run() == 1
    assert {each.channel: each.state for each in home.deliveries} == {
        "dead": "waiting",
        "phone": "sent",
    }
    home.run(RETRY_S[0])
    assert len(hook.requests) == 1


class Crashing:
    """A sender with a bug, whose error holds its address."""

    max_bytes = 2_000

    def send(self, message: Message, now_ms: int) -> None:
        """Crash."""
        raise ZeroDivisionError(KEY)


def test_a_sender_with_a_bug_is_a_failed_attempt(
    store: Store, hook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """It stops no other channel, and its error's text goes nowhere."""
    caplog.set_level(logging.DEBUG)
    home = Home(store, [Channel("bug", "en", Crashing()), Channel("phone", "en", WeCom(hook.url))])
    home.event("breach", "past the cap")
    assert home.run() == 1
    assert [each.error for each in home.deliveries] == ["ZeroDivisionError", None]
    assert KEY not in caplog.text


def test_no_secret_is_in_the_database_or_a_log(
    home: Home, hook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After every kind of failure, byte by byte."""
    caplog.set_level(logging.DEBUG)
    for habit, status in (("hang", 200), ("cut", 200), ("answer", 500), ("answer", 200)):
        hook.behave(habit)
        hook.status = status
        hook.body = json.dumps({"errcode": 7, "errmsg": f"no robot at {hook.url}"})
        home.event("breach", "past the cap")
        home.run(3_600)
    home.store.close()
    for path in tmp_path.glob("costguard.db*"):
        assert KEY.encode() not in path.read_bytes()
    assert KEY not in caplog.text
    assert "no robot at ***" in caplog.text


def test_what_was_taken_while_the_database_was_full_is_not_sent_again(
    home: Home, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is marked when the database can be written again."""
    home.event("breach", "past the cap")
    real, calls = home.store.write, iter(range(100))

    def failing() -> Any:
        if next(calls) >= 1:  # the collecting still works, the marking does not
            raise StoreUnavailable("the database said: disk full")
        return real()

    monkeypatch.setattr(home.store, "write", failing)
    assert home.run() == 1
    assert home.run(60) == 0
    assert home.states == ["waiting"]
    monkeypatch.setattr(home.store, "write", real)
    home.run(60)
    assert home.states == ["sent"]
    assert len(hook.requests) == 1


def test_nothing_is_marked_sent_without_its_time(home: Home) -> None:
    """The database itself refuses it."""
    home.event("breach", "past the cap")
    home.run()
    with pytest.raises(IntegrityError, match="sent"), home.store.write() as session:
        session.execute(text("UPDATE deliveries SET state = 'sent', sent_ms = NULL"))


def test_what_has_no_room_comes_in_the_next_message(store: Store, hook: Webhook) -> None:
    """Only what was in the message is marked as sent with it."""
    home = Home(store, [Channel("phone", "en", WeCom(hook.url, max_bytes=900))])
    for number in range(20):
        home.event("price_changed", f"change number {number} of the price, from 1.00 to 2.00 yuan")
    home.run()
    home.run(31)
    assert len(hook.texts[0].encode()) <= 900
    first = home.states.count("sent")
    assert 0 < first < 20
    assert f"({20 - first} more in the next message)" in hook.texts[0]
    for _ in range(5):
        home.run(31)
    assert home.states == ["sent"] * 20
    told = "".join(hook.texts)
    assert all(told.count(f"number {number} of") == 1 for number in range(20))


def test_one_notice_that_is_too_long_is_cut_and_sent(store: Store, hook: Webhook) -> None:
    """Better its beginning than nothing for ever; no character is cut in two."""
    home = Home(store, [Channel("phone", "en", WeCom(hook.url, max_bytes=600))])
    home.event("price_changed", "价" * 1_000)
    home.run()
    home.run(31)
    assert hook.texts[0].endswith("价…")
    assert len(hook.texts[0].encode()) <= 600
    assert home.states == ["sent"]


def test_without_a_channel_nothing_piles_up(store: Store, hook: Webhook) -> None:
    """And what happened meanwhile is not told to one that comes later."""
    home = Home(store, [])
    home.event("training_started")
    home.run()
    home.channels.append(Channel("phone", "en", WeCom(hook.url)))
    home.run(60)
    home.run(60)
    with store.read() as session:
        assert session.query(Notice).count() == 0
    assert hook.requests == []


def test_a_notice_survives_a_daemon_that_is_killed_before_it_is_sent(
    home: Home, hook: Webhook, tmp_path: Path
) -> None:
    """It stands in the database, in the transaction that saw the event."""
    hook.behave("cut")
    home.event("breach", "past the cap")
    home.run()
    with closing(sqlite3.connect(tmp_path / "costguard.db")) as plain:
        assert plain.execute("SELECT count(*) FROM deliveries").fetchone() == (1,)
    hook.behave("answer")
    home.outbox = home.new_outbox()
    assert home.run(60) == 1


def test_an_undelivered_says_how_long_to_wait() -> None:
    """Where the channel said so."""
    assert Undelivered("x", 5).retry_after_s == 5
    assert Undelivered("x").retry_after_s is None
