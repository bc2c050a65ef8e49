from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core import actions as act
from costguard.core.decide import FINAL_STATES, STOP_RETRY_MS, proven_stopped
from costguard.core.lease import Lease
from costguard.core.power import Power, PowerRead
from costguard.core.snapshot import LinkFacts, TrainingFacts
from tests.core.snapshots import (
    ATTACHED,
    ENDED,
    INSTANCE,
    NOW,
    ON,
    PLATFORM,
    QUEUED,
    RUNNING,
    SPEC,
    artifact,
    concluded,
    kinds,
    off,
    only,
)


def test_a_save_is_asked_for_with_what_is_left_of_the_grace() -> None:
    """The grace counts from the verdict, whoever asks again."""
    snap = concluded(RUNNING, "stalled")
    assert only(snap, act.Save).grace_ms == 10_000
    later = NOW.plus_ms(4_000)
    heard = replace(snap, link=replace(ATTACHED, heard=later))
    assert only(heard, act.Save, later).grace_ms == 6_000


def test_a_daemon_that_came_back_waits_a_little_for_the_line() -> None:
    """The training may still be saved; five seconds are tried, and no more."""
    snap = replace(concluded(RUNNING, "stalled"), link=LinkFacts(state="connecting"))
    assert kinds(snap) == ["EnsureLink", "SetState"]
    assert "EnsureLink" in kinds(snap, NOW.plus_ms(5_000))
    assert kinds(snap, NOW.plus_ms(5_001)) == ["StopPower", "SetState"]


@pytest.mark.parametrize(
    "changes",
    [
        {"has_ssh": False},
        {"training": ENDED},
        {"training": TrainingFacts()},
        {"instance": replace(INSTANCE, power=Power.STARTING)},
        {"instance": replace(INSTANCE, power=Power.UNKNOWN)},
    ],
)
def test_nothing_is_waited_for_where_nothing_can_be_saved(changes: dict[str, object]) -> None:
    """No address, no training, or a machine that does not run: off."""
    lost = replace(concluded(RUNNING, "stalled"), link=LinkFacts(state="lost"))
    snap = replace(lost, **changes)  # type: ignore[arg-type]  # field by field
    assert kinds(snap) == ["StopPower", "SetState"]


def test_a_lost_line_is_sought_again_for_what_is_not_home_yet() -> None:
    """As long as the lease and the patience for pulling last; otherwise the power goes off."""
    ended = replace(concluded(RUNNING, "failed"), training=ENDED, link=LinkFacts(state="lost"))
    missing = replace(ended, artifacts=(artifact(1),))
    assert kinds(missing, NOW.plus_ms(39_999)) == ["EnsureLink", "SetState"]
    assert kinds(missing, NOW.plus_ms(40_000)) == ["StopPower", "SetState"]
    assert kinds(replace(missing, pause_reason="platform")) == ["StopPower", "SetState"]
    assert kinds(ended) == ["StopPower", "SetState"]


def test_a_silent_agent_is_not_asked_to_save() -> None:
    """It would not answer; the meter runs."""
    silent = replace(ATTACHED, heard=NOW.plus_ms(-60_001))
    assert kinds(replace(concluded(RUNNING, "idle"), link=silent)) == ["StopPower", "SetState"]


def test_what_is_missing_is_pulled_under_the_lease_only() -> None:
    """One at a time; when the lease is over, or the patience, the power goes off."""
    ended = replace(concluded(RUNNING, "failed"), training=ENDED, artifacts=(artifact(1),))
    assert kinds(ended) == ["Pull", "SetState"]
    assert kinds(replace(ended, artifacts=(artifact(1, pulling=True),))) == ["SetState"]
    assert kinds(replace(ended, artifacts=(artifact(1, failed=True),)))[0] == "StopPower"
    assert kinds(replace(ended, lease=None, armed_end=None))[0] == "StopPower"
    over = NOW.plus_ms(40_000)
    heard = replace(ended, link=replace(ATTACHED, heard=over))
    assert kinds(heard, over)[0] == "StopPower"


def test_pulling_has_its_patience() -> None:
    """Ten seconds of grace and two minutes, whatever the lease would allow."""
    long = Lease(1, 1, NOW, NOW.plus_ms(900_000), 10**12, 0, final=False)
    ended = replace(
        concluded(RUNNING, "failed"), training=ENDED, artifacts=(artifact(1),), lease=long
    )
    for after_ms, first in ((130_000, "Pull"), (130_001, "StopPower")):
        now = NOW.plus_ms(after_ms)
        assert kinds(replace(ended, link=replace(ATTACHED, heard=now)), now)[0] == first


def test_an_unclear_create_is_resolved_before_it_can_be_stopped() -> None:
    """There is no name to stop it by yet, and nothing is shown as ended."""
    unclear = replace(INSTANCE, provider_id=None)
    snap = replace(concluded(RUNNING, "user"), instance=unclear)
    assert kinds(snap) == ["ResolveCreate"]


@pytest.mark.parametrize("calls", range(1, 12))
def test_a_refused_stop_is_tried_again_with_back_off_for_ever(calls: int) -> None:
    """Each time with an alarm, never later than a minute after the one before."""
    wait_ms = STOP_RETRY_MS[min(calls, len(STOP_RETRY_MS) - 1)]
    called = replace(INSTANCE, stop_calls=calls, last_call=NOW)
    snap = replace(concluded(RUNNING, "blind"), link=LinkFacts(), instance=called)
    assert kinds(snap, NOW.plus_ms(wait_ms - 1)) == ["SetState"]
    assert kinds(snap, NOW.plus_ms(wait_ms)) == ["Alarm", "StopPower", "SetState"]
    assert only(snap, act.StopPower, NOW.plus_ms(wait_ms)).attempt == calls + 1
    assert only(snap, act.Alarm, NOW.plus_ms(wait_ms)).attempt == calls + 1


def test_off_but_billing_is_stopped_again_and_never_shown_as_stopped() -> None:
    """It costs money, so it runs."""
    reads = tuple(PowerRead(Power.OFF_BILLING, NOW.plus_ms(ms)) for ms in (-9_000, -100))
    called = replace(
        INSTANCE, reads=reads, power=Power.OFF_BILLING, stop_calls=1, last_call=NOW.plus_ms(-9_500)
    )
    assert kinds(replace(concluded(RUNNING, "idle"), instance=called))[:2] == ["Alarm", "StopPower"]


def test_a_start_call_after_the_reads_takes_the_proof_away() -> None:
    """What was off before the call says nothing of now."""
    called = replace(INSTANCE, reads=off(-2_000, -500), power=Power.STOPPED, last_call=NOW)
    assert not proven_stopped(replace(RUNNING, instance=called))
    assert not proven_stopped(QUEUED)


def test_the_proof_waits_for_the_platforms_cache() -> None:
    """Two answers out of one cache are one answer."""
    called = replace(INSTANCE, reads=off(-1_500, -100), stop_calls=1, last_call=NOW.plus_ms(-9_000))
    cached = replace(PLATFORM, cache_age_ms=1_401)
    assert proven_stopped(replace(RUNNING, instance=called))
    assert not proven_stopped(replace(RUNNING, instance=called, platform=cached))


def test_an_instance_that_went_absent_counts_as_off() -> None:
    """Released by someone else: two such reads are enough, without a stop call of ours."""
    reads = tuple(PowerRead(Power.RELEASED, NOW.plus_ms(ms)) for ms in (-1_500, -100))
    gone = replace(INSTANCE, was_on=False, absent=True, reads=reads, power=Power.RELEASED)
    assert proven_stopped(replace(RUNNING, instance=gone))


# ------------------------------------------------------------------------------ after the end


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_nothing_is_done_after_the_end_while_it_stays_off(state: str) -> None:
    """Whatever reason is still written there."""
    stopped = replace(INSTANCE, power=Power.STOPPED, reads=off(-1_500, -1))
    snap = replace(concluded(RUNNING, "user"), state=state, instance=stopped)
    assert kinds(snap) == []
    assert kinds(replace(snap, instance=None)) == []
    assert kinds(replace(snap, instance=replace(stopped, provider_id=None))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"fresh_read": False},
        {"instance": replace(INSTANCE, power=Power.UNKNOWN)},
        {"instance": replace(INSTANCE, absent=True)},
        {"state": "released"},
    ],
)
def test_only_a_fresh_answer_that_says_on_raises_the_alarm(changes: dict[str, object]) -> None:
    """An old read, an unknown state or a machine that is gone is no one's fault."""
    ended = replace(RUNNING, state="finished", lease=None, armed_end=None)
    snap = replace(ended, **changes)  # type: ignore[arg-type]  # field by field
    assert kinds(snap) == []


ON_AFTER_THE_END = replace(RUNNING, state="paused", wish="release", lease=None, armed_end=None)


def test_what_is_still_on_is_stopped_and_released_in_one_pass() -> None:
    """A platform that does not stop it may still take it back, and the other way round."""
    assert kinds(ON_AFTER_THE_END) == ["Alarm", "StopPower", "Release"]
    assert kinds(replace(ON_AFTER_THE_END, wish="keep")) == ["Alarm", "StopPower"]


def test_what_seems_on_is_not_released_by_an_old_answer() -> None:
    """Nobody would say any more when its rent ended."""
    seemed_on = replace(ON_AFTER_THE_END, fresh_read=False)
    assert kinds(seemed_on) == []
    assert kinds(replace(seemed_on, wish="keep")) == []
    off = replace(INSTANCE, power=Power.STOPPED)
    assert kinds(replace(seemed_on, instance=off)) == ["Release"]


def test_a_release_does_not_wait_for_a_platform_that_no_longer_answers() -> None:
    """Three polls, or none that is remembered."""
    seemed_on = replace(ON_AFTER_THE_END, fresh_read=False)
    late = replace(
        INSTANCE, reads=(replace(ON[-1], begun=NOW.plus_ms(-3 * PLATFORM.poll_interval_ms)),)
    )
    assert kinds(replace(seemed_on, instance=late)) == ["Release"]
    sooner = replace(
        INSTANCE, reads=(replace(ON[-1], begun=NOW.plus_ms(1 - 3 * PLATFORM.poll_interval_ms)),)
    )
    assert kinds(replace(seemed_on, instance=sooner)) == []
    assert kinds(replace(seemed_on, instance=replace(INSTANCE, reads=()))) == ["Release"]


def test_what_is_already_gone_is_released_without_a_call() -> None:
    """Asked for, and true."""
    gone = replace(INSTANCE, absent=True, power=Power.RELEASED)
    snap = replace(RUNNING, state="paused", wish="release", instance=gone)
    assert only(snap, act.Finish).state == "released"


GIVES_BACK = replace(SPEC, instance=replace(SPEC.instance, after_finish="release"))
FINISHED = replace(
    RUNNING,
    spec=GIVES_BACK,
    state="finished",
    pause_reason="finished",
    lease=None,
    armed_end=None,
    instance=replace(INSTANCE, power=Power.STOPPED, reads=off(-1_500, -1), stopped_seen=True),
)


def test_a_finished_job_gives_its_disk_back_where_its_file_says_so() -> None:
    """What is at home is looked at first: that is the action's part."""
    assert kinds(FINISHED) == ["GiveBack"]


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": SPEC},
        {"state": "paused"},
        {"state": "failed"},
        {"wish": "pause"},
        {"wish": "keep"},
        {"instance": replace(FINISHED.instance or INSTANCE, stopped_seen=False)},
        {"instance": replace(FINISHED.instance or INSTANCE, absent=True)},
    ],
)
def test_nothing_else_gives_a_disk_back(changes: dict[str, object]) -> None:
    """Not asked for, not finished, wanted by a person, kept before, or not seen stopped."""
    assert kinds(replace(FINISHED, **changes)) == []  # type: ignore[arg-type]  # field by field
