from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core import actions as act
from costguard.core.lease import Account
from costguard.core.moment import Moment
from costguard.core.power import Power
from costguard.core.snapshot import Exit, LinkFacts, Snapshot, TrainingFacts
from costguard.core.spec import GuardLimits
from tests.core.snapshots import (
    ATTACHED,
    ENDED,
    INSTANCE,
    LATE,
    LEASE,
    NO_TIMER,
    NOW,
    PLATFORM,
    POOR,
    QUEUED,
    RUNNING,
    SAVED,
    SPEC,
    YUAN,
    artifact,
    kinds,
    off,
    only,
)

HEARD_LATE = replace(ATTACHED, heard=LATE)


def reason(snap: Snapshot, now: Moment = NOW) -> str:
    """Why it is decided to end."""
    return only(snap, act.Conclude, now).verdict.reason


def text(snap: Snapshot, now: Moment = NOW) -> str:
    """The same in words."""
    return only(snap, act.Conclude, now).verdict.text


# ------------------------------------------------------------------------------ why it ends


@pytest.mark.parametrize("wish", ["pause", "release"])
def test_the_users_wish_ends_the_run(wish: str) -> None:
    """Before any other reason."""
    breached = (Account("job x", 10 * YUAN, 20 * YUAN, 0, 0),)
    assert reason(replace(RUNNING, wish=wish, accounts=breached, training=ENDED)) == "user"


def test_a_wish_before_anything_was_rented_ends_at_once() -> None:
    """Nothing runs, so nothing has to be seen stopped."""
    assert kinds(replace(QUEUED, wish="pause")) == ["Conclude", "Finish"]
    assert only(replace(QUEUED, wish="pause"), act.Finish).state == "paused"


def test_saved_without_having_been_asked_is_the_platforms_doing() -> None:
    """Exit 75 under a living lease: someone else told the training to end."""
    assert reason(replace(RUNNING, training=SAVED)) == "platform"
    died = Exit(None, 15, artifact_complete=False, asked=True)
    assert reason(replace(RUNNING, training=replace(SAVED, exit=died))) == "platform"
    crashed = replace(SAVED, exit=replace(died, asked=False))
    assert reason(replace(RUNNING, training=crashed)) == "failed"


def test_saved_after_the_lease_ran_out_is_blindness() -> None:
    """The agent kept the lease while we were away."""
    snap = replace(RUNNING, training=SAVED)
    assert reason(snap, NOW.plus_ms(39_999)) == "platform"
    assert reason(snap, NOW.plus_ms(40_000)) == "blind"
    assert reason(replace(snap, armed_end=None)) == "platform"


def test_an_instance_that_fell_silent_before_it_went_off_is_blindness() -> None:
    """Nobody saw why; one that was heard to the last was taken from us."""
    went_off = replace(INSTANCE, reads=off(-1_500, -100), power=Power.STOPPED)
    silent = replace(ATTACHED, heard=NOW.plus_ms(-60_001))
    assert reason(replace(RUNNING, instance=went_off, link=silent)) == "blind"
    assert reason(replace(RUNNING, instance=went_off)) == "platform"


@pytest.mark.parametrize(("after_ms", "why"), [(-1, "blind"), (0, "blind"), (1, "platform")])
def test_what_its_agent_was_last_granted_is_what_ran_out(after_ms: int, why: str) -> None:
    """A renewal that it was never told of is none to it, whatever the books have reserved."""
    went_off = replace(INSTANCE, reads=off(-1_500, -100), power=Power.STOPPED)
    told = replace(went_off, agent_until_ms=NOW.utc_ms + after_ms)
    assert reason(replace(RUNNING, instance=told)) == why


def test_an_instance_that_is_gone_ends_the_run() -> None:
    """Long absent: the platform no longer knows it."""
    gone = replace(INSTANCE, absent=True, power=Power.RELEASED)
    assert reason(replace(RUNNING, instance=gone)) == "platform"


def test_one_read_off_does_not_end_the_run() -> None:
    """It may be stale; the second one decides."""
    once = replace(INSTANCE, reads=off(-100), power=Power.STOPPED)
    assert "Conclude" not in kinds(replace(RUNNING, instance=once))


def test_a_refused_line_ends_the_run() -> None:
    """A host key that changed is not argued with; the machine goes off without a save."""
    snap = replace(RUNNING, link=LinkFacts(state="refused", detail="the host key changed"))
    assert text(snap) == "the host key changed"
    assert kinds(snap) == ["Conclude", "StopPower", "SetState"]


def test_preparing_has_its_limit_on_both_sides() -> None:
    """Counted from the start call; from the job's making where there was none."""
    limits = GuardLimits(prepare_within_ms=30_000)
    idle = replace(
        RUNNING, spec=replace(SPEC, guards=limits), training=TrainingFacts(), link=LinkFacts()
    )
    assert "Conclude" not in kinds(idle)
    assert reason(idle, NOW.plus_ms(1)) == "platform"
    adopted = replace(idle, instance=replace(INSTANCE, started_call=None))
    assert reason(adopted) == "platform"


def test_an_instance_that_is_off_needs_no_lease() -> None:
    """Nor does one whose rent has not begun."""
    starting = replace(INSTANCE, interval=None, power=Power.STARTING)
    snap = replace(RUNNING, instance=starting, lease=None, armed_end=None, link=LinkFacts())
    assert "Conclude" not in kinds(snap)
    stopped = replace(INSTANCE, power=Power.STOPPED, reads=off(-1))
    assert "Conclude" not in kinds(replace(snap, instance=stopped))


def test_running_found_without_a_lease_is_stopped_as_such() -> None:
    """The verdict says what is wrong."""
    assert "no lease covers" in text(replace(RUNNING, lease=None, armed_end=None))


def test_after_a_reboot_no_lease_is_assumed() -> None:
    """A new one is reserved at once, or the machine goes off."""
    rebooted = Moment(NOW.utc_ms, 5, "next")
    link = replace(ATTACHED, heard=rebooted)
    assert kinds(replace(RUNNING, link=link), rebooted)[0] == "Grant"
    empty = replace(LEASE, reserved_micros=0)
    spent = (Account("job x", 20 * YUAN, 20 * YUAN, 0, 0),)
    assert "reboot" in text(replace(RUNNING, link=link, lease=empty, accounts=spent), rebooted)


def test_a_first_lease_whose_timer_is_not_armed_yet_runs_until_half() -> None:
    """The time between create and the armed timer is the daemon's alone."""
    unarmed = replace(RUNNING, armed_end=Moment(0, 0, "boot"))
    assert "ArmTimer" in kinds(unarmed)
    due = NOW.plus_ms(10_000)
    assert "re-armed" in text(replace(unarmed, link=replace(ATTACHED, heard=due)), due)


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({"accounts": POOR}, "budget", "does not fit"),
        ({}, "platform", "could not be renewed in time"),
        ({"link": replace(ATTACHED, heard=LATE.plus_ms(-60_001))}, "blind", "nothing was heard"),
        ({"armed_end": LEASE.end.plus_ms(-1)}, "platform", "could not be re-armed"),
    ],
)
def test_a_lease_that_was_not_renewed_ends_with_its_true_reason(
    changes: dict[str, object], expected: str, words: str
) -> None:
    """No budget is blamed that had room."""
    snap = replace(RUNNING, link=HEARD_LATE)
    ending = replace(snap, **changes)  # type: ignore[arg-type]  # field by field
    assert reason(ending, LATE) == expected
    assert words in text(ending, LATE)


def test_saving_begins_five_seconds_before_the_last_end_and_not_earlier() -> None:
    """Both sides of the lead; a shorter grace is a shorter lead."""
    poor = replace(RUNNING, accounts=POOR)
    early, late = NOW.plus_ms(34_999), NOW.plus_ms(35_000)
    assert "Conclude" not in kinds(replace(poor, link=replace(ATTACHED, heard=early)), early)
    assert reason(replace(poor, link=replace(ATTACHED, heard=late)), late) == "budget"
    hasty = replace(SPEC, runs=(replace(SPEC.runs[0], save_grace_ms=1_000),))
    assert "Conclude" not in kinds(replace(poor, spec=hasty, link=HEARD_LATE), LATE)


def test_a_lease_found_ended_two_polls_ago_was_watched_by_nobody() -> None:
    """A daemon that comes back says so; one that is merely late by a poll does not."""
    poor = replace(RUNNING, accounts=POOR)
    late, later = NOW.plus_ms(42_000), NOW.plus_ms(42_001)
    assert reason(replace(poor, link=replace(ATTACHED, heard=late)), late) == "budget"
    assert reason(replace(poor, link=replace(ATTACHED, heard=later)), later) == "blind"


def test_silence_is_blindness_after_its_limit() -> None:
    """Both sides; an agent never heard is not blind, it is being prepared."""
    limits = GuardLimits(blind_after_ms=20_000)
    snap = replace(RUNNING, spec=replace(SPEC, guards=limits))
    assert "Conclude" not in kinds(
        replace(snap, link=replace(ATTACHED, heard=NOW.plus_ms(-20_000)))
    )
    assert reason(replace(snap, link=replace(ATTACHED, heard=NOW.plus_ms(-20_001)))) == "blind"
    assert "Conclude" not in kinds(replace(snap, link=LinkFacts(state="connecting")))


def test_max_hours_counts_from_the_launch() -> None:
    """Both sides of the limit, and nothing before the launch."""
    limited = replace(SPEC, guards=GuardLimits(max_ms=9_000))
    snap = replace(RUNNING, spec=limited)
    assert "Conclude" not in kinds(snap)
    over = replace(snap, training=replace(snap.training, agent_now_ms=9_001))
    assert reason(over) == "max_hours"
    assert "Conclude" not in kinds(replace(snap, training=TrainingFacts()))


# ------------------------------------------------------------------------------ while it runs


@pytest.mark.parametrize(
    ("launched", "link", "state"),
    [
        (None, "none", "provisioning"),
        (None, "connecting", "preparing"),
        (None, "lost", "preparing"),
        (1, "lost", "training"),
        (1, "attached", "training"),
    ],
)
def test_the_state_shown_follows_what_is_known(launched: int | None, link: str, state: str) -> None:
    """Provisioning until there is a line, training once it was launched."""
    training = replace(RUNNING.training, launched_at_ms=launched)
    snap = replace(RUNNING, training=training, link=LinkFacts(state=link))
    assert only(snap, act.SetState).state == state


def test_a_line_is_sought_only_where_there_is_one_to_find() -> None:
    """Not before the machine runs, and not before its address is known."""
    assert "EnsureLink" in kinds(RUNNING)
    assert "EnsureLink" not in kinds(replace(RUNNING, has_ssh=False))
    starting = replace(INSTANCE, power=Power.STARTING)
    assert "EnsureLink" not in kinds(replace(RUNNING, instance=starting))


def test_no_heartbeat_is_answered_without_a_lease_or_a_line() -> None:
    """The agent gets only what is reserved."""
    assert "SendLease" not in kinds(replace(RUNNING, link=replace(ATTACHED, heartbeat=None)))
    assert "SendLease" not in kinds(replace(RUNNING, link=replace(ATTACHED, state="lost")))
    unleased = replace(INSTANCE, interval=None)
    bare = replace(RUNNING, instance=unleased, lease=None, armed_end=None)
    assert "SendLease" not in kinds(bare)


def test_a_platform_without_a_timer_is_not_asked_to_arm_one() -> None:
    """The grant stands alone."""
    snap = replace(RUNNING, platform=NO_TIMER)
    half = NOW.plus_ms(10_000)
    assert "ArmTimer" not in kinds(snap, half)
    assert only(snap, act.Grant, half).length_ms == 60_000
    assert "ArmTimer" not in kinds(replace(snap, armed_end=LEASE.end.plus_ms(-1)))


def test_a_renewal_inside_the_timers_minimum_lead_is_none() -> None:
    """The platform could not keep it: 20 s are left to offer, and 20.001 s are its minimum."""
    half = NOW.plus_ms(30_000)
    accounts = (Account("job x", 86 * YUAN, 20 * YUAN, 56 * YUAN, 0),)
    snap = replace(RUNNING, accounts=accounts, link=replace(ATTACHED, heard=half))
    assert only(snap, act.Grant, half).length_ms == 20_000
    slow = replace(PLATFORM, timer_min_lead_ms=20_001)
    assert "Grant" not in kinds(replace(snap, platform=slow), half)


def test_a_renewal_that_gains_less_than_a_second_is_not_worth_a_call() -> None:
    """The last lease would otherwise be renewed for ever, bit by bit."""
    half = NOW.plus_ms(10_000)
    for cap, renewed in ((77, True), (76, False)):
        accounts = (Account("job x", cap * YUAN, 20 * YUAN, 56 * YUAN, 0),)
        assert ("Grant" in kinds(replace(RUNNING, accounts=accounts), half)) is renewed


def test_nothing_is_renewed_at_a_price_that_is_not_known() -> None:
    """The open lease runs out; what it holds was reserved at the old price."""
    for now in (NOW, NOW.plus_ms(10_000)):
        assert "Grant" not in kinds(replace(RUNNING, tariff=None), now)


def test_artifacts_come_home_one_at_a_time_the_adapter_first() -> None:
    """While it trains only the newest is worth the line."""
    some = (artifact(1), artifact(2), artifact(1, "adapter"), artifact(9, pulled=True))
    assert only(replace(RUNNING, artifacts=some), act.Pull).artifact_id == 1
    assert only(replace(RUNNING, artifacts=some[:2]), act.Pull).artifact_id == 2
    busy = (*some[:2], artifact(3, pulling=True))
    assert "Pull" not in kinds(replace(RUNNING, artifacts=busy))
    given_up = (artifact(5, failed=True), artifact(4))
    assert only(replace(RUNNING, artifacts=given_up), act.Pull).artifact_id == 4


# ------------------------------------------------------------------------------ a drill

DRILL = replace(RUNNING, spec=replace(SPEC, drill=True), training=TrainingFacts(), link=LinkFacts())


def test_a_drills_instance_is_rented_like_any_other_and_then_left_alone() -> None:
    """Up to the end of its lease: no renewal, no line, no stop, whatever its power state."""
    assert kinds(replace(QUEUED, spec=DRILL.spec)) == kinds(QUEUED)
    unclear = replace(DRILL, instance=replace(INSTANCE, provider_id=None))
    assert kinds(unclear) == ["ResolveCreate"]
    assert kinds(DRILL) == []
    stopped = replace(INSTANCE, power=Power.STOPPED, reads=off(-2_000, -500))
    assert kinds(replace(DRILL, instance=stopped)) == []
    assert kinds(DRILL, LEASE.end.plus_ms(-1)) == []


@pytest.mark.parametrize(
    "snap",
    [
        replace(DRILL, wish="release"),
        replace(DRILL, pause_reason="user", verdict_at=NOW),
        replace(DRILL, accounts=(Account("job x", YUAN, 2 * YUAN, 0, 0),)),
        replace(DRILL, lease=None, armed_end=None),
    ],
    ids=["wish", "ended", "breach", "no lease"],
)
def test_a_drill_ends_where_anything_else_would(snap: Snapshot) -> None:
    """What was asked for, what was decided before, a cap that was passed, running unpaid for."""
    assert "StopPower" in kinds(snap)


def test_after_its_lease_a_drills_instance_is_stopped() -> None:
    """Whoever drilled may have died: what still runs is switched off."""
    assert "StopPower" in kinds(DRILL, LEASE.end.plus_ms(1_000))


# ------------------------------------------------------------------------------ how it is rented


def test_a_named_instance_is_adopted_and_none_is_made() -> None:
    """Reserved for first, as for one that is rented."""
    named = replace(SPEC, instance=replace(SPEC.instance, instance_id="i-9"))
    assert kinds(replace(QUEUED, spec=named)) == ["Grant", "Adopt", "SetState"]


def test_a_timer_that_is_set_once_lies_where_the_caps_end() -> None:
    """With its first lease it would end every run; a higher cap moves it further."""
    fixed = replace(QUEUED, platform=replace(PLATFORM, timer_is_fixed=True))
    once = only(fixed, act.Create).timer_after_ms
    assert once > only(QUEUED, act.Create).timer_after_ms
    richer = replace(fixed, accounts=(Account("job x", 2_000 * YUAN, 0, 0, 0),))
    assert only(richer, act.Create).timer_after_ms > once
