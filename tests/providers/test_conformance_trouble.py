"""Failures, refusals and secrets: what every adapter must make of them."""

from __future__ import annotations

import contextlib
import logging

import pytest

from costguard.providers.base import AccountRefused, AuthRefused, ProviderError, Refused, Unclear
from tests.providers.asking import call, chain_of, every, rent
from tests.providers.fakes.platform import AUTH_TROUBLES
from tests.providers.rigs import NOW, RIGS, ROUTES, TAG, Rig

on_routes = pytest.mark.parametrize(
    ("rig", "route"), [(name, route) for name in RIGS for route in ROUTES[name]], indirect=["rig"]
)


@on_routes
@pytest.mark.parametrize("kind", ["500", "html", "list", "null"])
def test_an_answer_that_says_nothing_is_unclear(rig: Rig, route: str, kind: str) -> None:
    """A failure, a proxy's page or a changed API pass neither for yes nor for no."""
    view = rent(rig)
    rig.cloud.fail(route, kind)
    with pytest.raises(Unclear):
        call(rig, route, view.id)


@every
@pytest.mark.parametrize("route", ["read", "list"])
def test_an_empty_answer_is_no_list_of_nothing(rig: Rig, route: str) -> None:
    """An instance that is not seen must not pass for one that is gone."""
    view = rent(rig)
    rig.cloud.fail("read", "empty")
    rig.cloud.fail("list", "empty")
    with pytest.raises(Unclear):
        call(rig, route, view.id)


# The embedded platform is this machine's own: its adapter leaves backing off to the loop.
held_back = pytest.mark.parametrize(
    ("rig", "route"),
    [(name, route) for name in RIGS if name != "local" for route in ROUTES[name]],
    indirect=["rig"],
)


@held_back
def test_too_many_calls_are_held_back_for_as_long_as_is_said(rig: Rig, route: str) -> None:
    """A 429 is unclear; the next call does not reach the platform, and a stop does."""
    view = rent(rig)
    rig.cloud.fail(route, "429", headers={"Retry-After": "7"}, times=1)
    with pytest.raises(Unclear) as unclear:
        call(rig, route, view.id)
    assert unclear.value.retry_after_s == 7
    before = rig.cloud.counts.total()
    with pytest.raises(Unclear) as held:
        call(rig, "read", view.id)
    assert rig.cloud.counts.total() == before
    assert held.value.retry_after_s is not None
    assert 0 < held.value.retry_after_s <= 7
    with contextlib.suppress(Unclear):  # which reads, held back, some adapters make around it
        rig.account.stop(view.id)
    assert rig.cloud.counts["stop"] == 1 + (route == "stop")


@pytest.mark.parametrize("rig", [name for name in RIGS if name != "local"], indirect=True)
def test_too_many_calls_without_a_word_on_how_long_back_off_further_each_time(rig: Rig) -> None:
    """Twice as long after each."""
    rig.cloud.fail("list", "429")
    waits = []
    for _ in range(3):
        rig.cloud.now_s += 1_000
        rig.clock.forward(1_000)
        with pytest.raises(Unclear) as unclear:
            rig.account.list_tagged(TAG, NOW)
        waits.append(unclear.value.retry_after_s)
    assert waits == [2, 4, 8]


@every
def test_nobody_listening_is_unclear(rig: Rig) -> None:
    """A refused connection says nothing of the instance."""
    rig.cloud.close()
    for route in ("read", "stop", "create"):
        with pytest.raises(Unclear):
            call(rig, route, "1")


# ------------------------------------------------------------------------------------ refusals

KINDS = {
    "wrong": AuthRefused,
    "expired": AuthRefused,
    "unverified": AccountRefused,
    "arrears": AccountRefused,
    "region": Refused,
}
WORDS = {
    "wrong": "wrong|expired|not accept",
    "expired": "wrong|expired|not accept",
    "unverified": "verif",
    "arrears": "arrears|credit|balance|paid",
    "region": "region|zone|data.?cent",
}


@pytest.mark.parametrize(
    ("rig", "trouble"),
    [(name, trouble) for name in RIGS for trouble in AUTH_TROUBLES],
    indirect=["rig"],
)
def test_a_person_is_told_what_is_wrong_in_one_sentence(rig: Rig, trouble: str) -> None:
    """Which platform, what it is, and where it is put right; no secret, though it was echoed."""
    if trouble not in rig.cloud.tells:
        assert trouble in rig.untold, "each trouble is told, or named as one that is not"
        return
    rig.cloud.trouble = trouble
    with pytest.raises(KINDS[trouble], match=f"(?i){WORDS[trouble]}") as refused:
        rig.account.create(rig.request(**rig.far_away if trouble == "region" else {}), NOW)
    text = str(refused.value)
    assert rig.name in text
    assert "\n" not in text
    assert 20 < len(text) < 400
    assert rig.cloud.machines == {}


# ------------------------------------------------------------------------------------ secrets


@every
def test_no_secret_is_ever_written_down(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in logs, errors and what hangs on them, nor in what is shown of anything."""
    caplog.set_level(logging.DEBUG)
    view = rent(rig)
    shown = [repr(rig.account), str(vars(rig.account)), repr(rig.account.facts), repr(view)]
    shown += [str(view), repr(rig.account.price(rig.request()))]
    for route in ("read", "list", "stop", "timer", "balance", "start", "create"):
        for kind in ("500", "html", "cut"):
            rig.cloud.faults.clear()
            rig.clock.forward(1_000)
            rig.cloud.fail(route, kind)
            with contextlib.suppress(Unclear):
                call(rig, route, view.id)
    rig.cloud.faults.clear()
    for trouble in rig.cloud.tells:
        rig.cloud.trouble = trouble
        for route in ("read", "create", "stop"):
            with pytest.raises(ProviderError) as refused:
                call(rig, route, view.id)
            shown.append(chain_of(refused.value))
    shown.append(caplog.text)
    for secret in (*rig.cloud.secrets, "boot-word"):
        assert not any(secret in text for text in shown), "a secret stands in plain text"


@every
def test_secrets_travel_in_headers_or_bodies_alone(rig: Rig) -> None:
    """Addresses are logged everywhere on their way."""
    view = rent(rig)
    rig.account.stop(view.id)
    rig.account.list_tagged(TAG, NOW)
    for made in rig.cloud.calls:
        for secret in rig.cloud.secrets:
            assert secret not in f"{made.path} {made.query}"


# ------------------------------------------------------------------------------------ timers


@every
def test_a_timer_is_what_is_read_back(rig: Rig) -> None:
    """To the second, never later than asked; a timer that was lost on the way is not armed."""
    view = rent(rig)
    at_ms = NOW.utc_ms + 900_500
    if rig.account.facts.timer_kind != "lease":
        assert rig.account.arm_timer(view.id, at_ms) is None
        assert rig.account.facts.timer_min_lead_ms is None
        assert rig.cloud.counts["timer"] == 0
        return
    back = rig.account.arm_timer(view.id, at_ms)
    assert back is not None
    assert at_ms - rig.timer_step_ms < back <= at_ms
    assert rig.account.read(view.id, NOW).read.timer_at_ms in (back, None)
    rig.cloud.habits.add("timer_lost")
    assert rig.account.arm_timer(view.id, at_ms + 600_000) == back


@every
def test_a_timer_too_near_is_refused_by_a_platform_that_wants_a_lead(rig: Rig) -> None:
    """What the facts say of the lead is what the platform wants."""
    lead_ms = rig.account.facts.timer_min_lead_ms
    if lead_ms is None:
        assert rig.account.facts.timer_kind != "lease"
        return
    view = rent(rig)
    with pytest.raises(Refused) if rig.wants_lead else contextlib.nullcontext():
        rig.account.arm_timer(view.id, NOW.utc_ms + lead_ms - 2_000)
    assert rig.account.arm_timer(view.id, NOW.utc_ms + lead_ms + 1_000) is not None
