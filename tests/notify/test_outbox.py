from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.notify import texts
from costguard.notify.channels import Channel
from costguard.notify.kinds import KINDS, URGENT
from costguard.notify.wecom import WeCom
from costguard.store.models import Job
from tests.notify.home import HOUR_MS, NOON_MS, Home
from tests.store.rows import YUAN

if TYPE_CHECKING:
    from costguard.store.database import Store
    from tests.notify.conftest import Webhook


# ------------------------------------------------------------------ what is told


def test_history_is_not_told(home: Home, hook: Webhook) -> None:
    """The first time there is a channel, what happened before is over."""
    home.run(3_600)
    assert hook.requests == []
    assert home.deliveries == []


def test_an_event_is_told_once(home: Home, hook: Webhook) -> None:
    """However often the chore comes round, and whoever is started anew."""
    home.event("training_started", "training was started")
    home.run()
    home.run(31)
    home.outbox = home.new_outbox()
    home.run(31)
    assert hook.texts == ["costguard\nkefu has begun to train; spent ¥0.00 of ¥80.00"]
    assert home.states == ["sent"]
    assert home.deliveries[0].sent_ms is not None


def test_a_pause_is_told_with_its_reason_and_what_it_cost(home: Home, hook: Webhook) -> None:
    """And that the disk goes on costing."""
    home.spend(12)
    home.end("paused", "idle", "quiet for 300 s in the training phase")
    home.run()
    home.run(31)
    assert hook.texts == [
        (
            "costguard\nkefu is paused: idle (quiet for 300 s in the training phase); "
            "the disk goes on costing until `release`; spent ¥12.00 of ¥80.00"
        )
    ]


def test_in_chinese_it_is_chinese(store: Store, hook: Webhook) -> None:
    """The channel's language, whatever the daemon's is."""
    home = Home(store, [Channel("phone", "zh", WeCom(hook.url))])
    home.end("finished", "finished")
    home.event("stop_not_confirmed", "…", {"loud": True})
    home.run()
    heading, *lines = hook.texts[0].splitlines()
    assert "仍在花钱" in heading
    assert "停机未确认" in lines[0]
    assert "已完成" in lines[1]
    assert "已花 ¥0.00 / 预算 ¥80.00" in lines[1]


@pytest.mark.parametrize("kind", sorted(set(KINDS.values()) - {"blind"}))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_kind_has_words(kind: str, language: str, store: Store, hook: Webhook) -> None:
    """None that would crash, or leave a blank unfilled."""
    home = Home(store, [Channel("phone", language, WeCom(hook.url))])
    home.event(next(event for event, made in KINDS.items() if made == kind), "why it is so")
    home.run()
    home.run(31)
    (told,) = hook.texts
    assert "{" not in told
    assert (kind in URGENT) == (("MONEY IS RUNNING" in told) or ("仍在花钱" in told))


def test_a_wallet_that_runs_out_is_told_in_hours(store: Store, hook: Webhook) -> None:
    """At any hour: the platform stops everything when it is empty."""
    home = Home(store, [Channel("phone", "zh", WeCom(hook.url))])
    home.event("low_balance", "…", {"provider": "autodl", "hours": "3.2"})
    home.run()
    home.run(31)
    assert "autodl 的余额只够再跑 3.2 小时" in hook.texts[0]


def test_what_concerns_nobody_is_not_told(home: Home, hook: Webhook) -> None:
    """A person is not told what they cannot use."""
    for kind in ("submitted", "pulled", "stop_call", "state"):
        home.event(kind, "training")
    home.event("verdict", "quiet", {"guard": "idle"})
    home.run()
    home.run(31)
    assert hook.requests == []


def test_being_blind_is_told_when_it_is_found(home: Home, hook: Webhook) -> None:
    """Before the pause that follows from it."""
    home.event("verdict", "nothing was heard", {"guard": "blind"})
    home.run()
    home.run(31)
    assert "the line to its instance is lost" in hook.texts[0]


def test_shares_of_the_cap_are_told_once_each(home: Home, hook: Webhook) -> None:
    """50, 80 and 95 %; one that was jumped over is not told."""
    with home.store.write() as session:
        session.get_one(Job, home.job_id).state = "training"
    for yuan in (39, 41, 78, 79):
        home.spend(yuan)
        home.run()
        home.run(31)
    assert [text.split(";")[0].split("\n")[1] for text in hook.texts] == [
        "kefu has used half of its cap",
        "kefu HAS USED 95 % OF ITS CAP",
    ]


def test_a_raised_cap_has_shares_of_its_own(home: Home, hook: Webhook) -> None:
    """Half of the new one is news again."""
    with home.store.write() as session:
        session.get_one(Job, home.job_id).state = "training"
    home.spend(41)
    home.run()
    home.run(31)
    with home.store.write() as session:
        session.get_one(Job, home.job_id).cap_micros = 82 * YUAN
    home.run(31)
    home.run(31)
    assert len(hook.texts) == 2


def test_what_goes_on_and_on_is_told_every_ten_minutes(home: Home, hook: Webhook) -> None:
    """Sixty alarms an hour are as good as none."""
    for _ in range(30):
        home.event("stop_not_confirmed", "attempt")
        home.run(60)
    assert 3 <= len(hook.texts) <= 4


# ------------------------------------------------------------------ when it is told


def test_what_happens_together_comes_as_one_message(home: Home, hook: Webhook) -> None:
    """Waiting half a minute costs nobody anything."""
    home.event("training_started")
    home.run()
    home.event("price_changed", "from 1 to 2")
    home.run(20)
    assert hook.requests == []
    home.run(11)
    assert hook.texts == [
        (
            "costguard: 2 notices\nkefu has begun to train; spent ¥0.00 of ¥80.00\n"
            "kefu: the price has changed: from 1 to 2"
        )
    ]
    assert home.states == ["sent", "sent"]


def test_what_costs_money_does_not_wait(home: Home, hook: Webhook) -> None:
    """It goes out at once, first in its message, and takes along what waits."""
    home.event("training_started")
    home.run()
    home.event("stray", "an instance of ours that no job drives")
    home.run(5)
    (told,) = hook.texts
    assert told.startswith("costguard: MONEY IS RUNNING\nAN INSTANCE OF OURS")
    assert "has begun to train" in told


NIGHT = {"quiet": "23:00-07:30"}


@pytest.mark.parametrize(
    ("hour", "told"), [(22.5, 1), (23.5, 0), (26, 0), (31.4, 0), (31.6, 1), (36, 1)]
)
def test_quiet_hours_keep_the_night(store: Store, hook: Webhook, hour: float, told: int) -> None:
    """Past midnight, and on the wall's clock."""
    home = Home(store, [Channel("phone", "en", WeCom(hook.url))], **NIGHT, morning="off")
    home.now_ms = NOON_MS - 12 * HOUR_MS + int(hour * HOUR_MS)
    home.event("training_started")
    home.run()
    home.run(31)
    assert len(hook.texts) == told


def test_after_the_night_everything_comes_at_once(store: Store, hook: Webhook) -> None:
    """Nothing that waited is lost."""
    home = Home(store, [Channel("phone", "en", WeCom(hook.url))], **NIGHT, morning="off")
    home.now_ms = NOON_MS + 12 * HOUR_MS
    home.event("training_started")
    home.end("finished", "finished")
    home.run(3 * 3_600)
    assert hook.requests == []
    home.run(5 * 3_600)
    assert hook.texts[0].startswith("costguard: 2 notices\n")


@pytest.mark.parametrize("event", sorted(event for event, kind in KINDS.items() if kind in URGENT))
def test_money_that_runs_away_wakes_people(store: Store, hook: Webhook, event: str) -> None:
    """At three in the morning."""
    home = Home(store, [Channel("phone", "en", WeCom(hook.url))], **NIGHT)
    home.now_ms = NOON_MS + 15 * HOUR_MS
    home.event(event, "costs")
    home.run()
    assert len(hook.texts) == 1


def test_the_morning_says_what_ran_and_what_waits(home: Home, hook: Webhook) -> None:
    """Once a day, at eight; with what it cost and what a person has to decide."""
    home.spend(20)
    home.end("paused", "budget", "the next lease does not fit the budget")
    home.run()
    home.run(31)
    hook.requests.clear()
    home.run(19 * 3_600)
    assert hook.requests == []
    home.run(3_600 - 31)
    home.run(31)
    home.run(31)
    assert hook.texts == [
        (
            "costguard: good morning\nThe night up to 2026-11-26:\n"
            "- kefu: paused, spent ¥20.00 of ¥80.00; waits for your decision (budget)"
        )
    ]


def test_a_morning_with_nothing_to_say_says_nothing(home: Home, hook: Webhook) -> None:
    """Nothing ran and nothing waits."""
    home.run(48 * 3_600)
    home.run(31)
    assert hook.requests == []


def test_the_daemons_words_in_a_notice_are_in_the_channels_language() -> None:
    """Its own sentence around them, theirs within."""
    facts = {"job": "kefu", "said": "it will not fit the budget: about 91.00 yuan to finish"}
    words = texts.line("will_not_fit", facts, texts.translator("zh"), "zh")
    assert "91.00 元" in words
    assert "budget" not in words
    assert facts["said"] in texts.line("will_not_fit", facts, texts.translator("en"))
