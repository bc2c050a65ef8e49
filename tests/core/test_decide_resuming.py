"""Going on with a paused job: the lease, the start call, and an instance that does not come on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from costguard.core.actions import ArmTimer, Conclude, Finish, Grant, SetState
from costguard.core.decide import proven_stopped
from costguard.core.lease import Account
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import LinkFacts, TrainingFacts
from costguard.core.verdicts import judge
from tests.core.snapshots import INSTANCE, NO_TIMER, NOW, RUNNING, YUAN, kinds, off, only

PAUSED = replace(
    RUNNING,
    state="queued",
    instance=replace(
        INSTANCE, power=Power.STOPPED, reads=off(-5_000, -500), stopped_seen=True, interval=None
    ),
    lease=None,
    armed_end=None,
    link=LinkFacts(),
    training=TrainingFacts(),
)
STARTED = replace(
    PAUSED,
    state="provisioning",
    instance=replace(
        INSTANCE,
        power=Power.STOPPED,
        reads=off(-5_000, -500),
        was_on=False,
        interval=None,
        last_call=NOW.plus_ms(-10_000),
    ),
    lease=RUNNING.lease,
    armed_end=RUNNING.armed_end,
)


def test_a_paused_instance_is_switched_on_under_a_lease_and_a_timer() -> None:
    """Reserve first, then call; a timer lies at the lease's end and the grace to save."""
    assert kinds(PAUSED) == ["Grant", "PowerOn", "SetState", "ArmTimer"]
    assert only(PAUSED, Grant).length_ms == 60_000
    assert only(PAUSED, ArmTimer).timer_at_ms == NOW.utc_ms + 60_000 + 10_000
    assert kinds(replace(PAUSED, platform=NO_TIMER)) == ["Grant", "PowerOn", "SetState"]


def test_a_paused_instance_is_believed_off_until_it_is_switched_on() -> None:
    """It was proven; nothing is judged of a job that has not begun again."""
    assert proven_stopped(PAUSED)
    assert judge(PAUSED, NOW) is None


def test_without_a_price_it_is_asked_for_first() -> None:
    """Nothing is reserved blindly."""
    assert kinds(replace(PAUSED, tariff=None)) == ["AskPrice"]


def test_a_resume_that_does_not_fit_says_so_and_starts_nothing() -> None:
    """With the arithmetic."""
    poor = replace(PAUSED, accounts=(Account("job x", 1_000 * YUAN, 970 * YUAN, 0, 0),))
    assert kinds(poor) == ["Conclude", "Finish"]
    assert only(poor, Conclude).verdict.reason == "budget"
    assert only(poor, Finish).state == "paused"


def test_a_resume_that_does_not_fit_ends_only_once_it_is_seen_off() -> None:
    """The last answer was of unknown: what is said is said, the proof is the next passes'."""
    accounts = (Account("job x", 1_000 * YUAN, 970 * YUAN, 0, 0),)
    reads = (*off(-5_000), PowerRead(Power.UNKNOWN, NOW.plus_ms(-500)))
    unsure = replace(INSTANCE, power=Power.UNKNOWN, reads=reads, stopped_seen=True, interval=None)
    assert kinds(replace(PAUSED, accounts=accounts, instance=unsure)) == ["Conclude"]


def test_a_resume_waits_for_capacity_until_its_time() -> None:
    """Then tries again."""
    waiting = replace(PAUSED, retry_at_ms=NOW.utc_ms + 1)
    assert kinds(waiting) == ["SetState"]
    assert kinds(waiting, NOW.plus_ms(1))[0] == "Grant"


def test_a_start_call_that_shows_no_effect_is_made_again() -> None:
    """After half a minute; until then it is under way."""
    assert kinds(STARTED) == ["SetState"]
    late = replace(STARTED, instance=replace(STARTED.instance, last_call=NOW.plus_ms(-30_001)))  # type: ignore[type-var]  # there is one
    assert kinds(late) == ["PowerOn"]


def test_a_start_that_was_refused_rests_only_once_it_is_seen_off() -> None:
    """Two reads after the call, as for any stop."""
    refused = replace(STARTED, retry_at_ms=NOW.utc_ms + 9_000)
    assert kinds(refused) == ["Rest", "SetState"]
    once = replace(refused, instance=replace(refused.instance, reads=off(-500)))  # type: ignore[type-var]  # there is one
    assert kinds(once) == ["SetState"]


def test_what_does_not_come_on_within_its_lease_is_the_platforms_doing() -> None:
    """It was called and never seen on."""
    assert judge(STARTED, NOW) is None
    verdict = judge(STARTED, NOW.plus_ms(40_001))
    assert verdict is not None
    assert (verdict.reason, "not switched on" in verdict.text) == ("platform", True)


@pytest.mark.parametrize("since_ms", [-10_000, None])
def test_the_time_to_prepare_counts_from_the_stage(since_ms: int | None) -> None:
    """A second stage on an instance that has long been on."""
    since = None if since_ms is None else NOW.plus_ms(since_ms)
    old = NOW.plus_ms(-2_000_000)
    snap = replace(
        RUNNING,
        training=TrainingFacts(),
        instance=replace(INSTANCE, started_call=old),
        stage_since=since,
    )
    verdict = judge(snap, NOW)
    assert (verdict is None) is (since is not None)


QUEUED_FOR_A_CARD = replace(
    STARTED,
    instance=replace(STARTED.instance or INSTANCE, power=Power.STARTING, reads=(), waits=True),
)


@pytest.mark.parametrize("changes", [{}, {"wish": "pull", "pause_reason": "user"}])
def test_a_start_that_waits_for_a_card_is_called_off_before_long(changes: dict[str, Any]) -> None:
    """Half a minute is given to it, under its lease; longer it may wait for ever."""
    waiting = replace(QUEUED_FOR_A_CARD, **changes)
    assert kinds(waiting) == ["SetState"]
    assert only(waiting, SetState).state == "waiting_capacity"
    assert kinds(waiting, NOW.plus_ms(20_000)) == ["TakeBack", "SetState"]
    unknown = replace(waiting, instance=replace(INSTANCE, waits=True, was_on=False, last_call=None))
    assert kinds(unknown) == ["TakeBack", "SetState"]


def test_what_comes_up_without_a_card_is_given_no_line_and_then_no_more_time() -> None:
    """Two reads in a row; a training that is alive is not judged by what a list shows."""
    bare = replace(RUNNING, link=LinkFacts(), training=TrainingFacts())
    assert bare.instance is not None
    once = replace(bare, instance=replace(bare.instance, cardless=1))
    assert "EnsureLink" in kinds(bare)
    assert "EnsureLink" not in kinds(once)
    twice = replace(bare, instance=replace(bare.instance, cardless=2))
    verdict = only(twice, Conclude).verdict
    assert (verdict.reason, verdict.save) == ("platform", False)
    assert "StopPower" in kinds(twice)
    alive = replace(twice, training=TrainingFacts(launched_at_ms=1))
    assert judge(alive, NOW) is None


LENT = replace(
    INSTANCE,
    power=Power.STOPPED,
    reads=off(-5_000, -500),
    was_on=False,
    interval=None,
    last_call=NOW.plus_ms(-10_000),
    lent=True,
    denied=True,
)
DENIED = replace(STARTED, instance=LENT)


def test_what_was_taken_unasked_goes_back_once_its_start_is_past() -> None:
    """Two looks after the refused call, one poll apart; until then what is reserved stays so."""
    assert kinds(DENIED) == ["LetGo"]
    early = replace(DENIED, instance=replace(LENT, reads=off(-500)))
    assert kinds(early) == ["SetState"]
    assert only(early, SetState).state == "waiting_capacity"


@pytest.mark.parametrize("changes", [{"lent": False}, {"denied": False}, {"power": Power.STARTING}])
def test_what_is_the_jobs_own_or_may_be_on_does_not_go_back(changes: dict[str, Any]) -> None:
    """It has run on it, or was not refused, or the platform shows something else than off."""
    assert "LetGo" not in kinds(replace(DENIED, instance=replace(LENT, **changes)))
