from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core import actions as act
from costguard.core.lease import Account
from costguard.core.power import Power
from costguard.core.snapshot import ArtifactFacts, Exit, LinkFacts, TrainingFacts
from costguard.core.spec import GuardLimits, InstanceWish
from costguard.core.tariff import Tariff
from tests.core.snapshots import (
    ATTACHED,
    INSTANCE,
    LEASE,
    NOW,
    QUEUED,
    RUNNING,
    SPEC,
    YUAN,
    concluded,
    kinds,
    off,
    only,
)


def test_money_is_reserved_before_anything_is_rented() -> None:
    """Grant comes first, and the timer is armed with the create."""
    assert kinds(QUEUED) == ["Grant", "Create", "SetState"]
    assert only(QUEUED, act.Create).timer_after_ms == 60_000 + 10_000


def test_what_a_second_instance_of_the_call_may_cost_is_reserved_before_it() -> None:
    """15 s to be listed, two polls and 6 s to stop, at a yuan a second; not where it cannot be."""
    once = replace(QUEUED, platform=replace(QUEUED.platform, creates_once=True))
    lease_micros = (60 + 10 + 6) * YUAN
    assert only(QUEUED, act.Grant).increment_micros == lease_micros
    assert only(QUEUED, act.Grant).aside_micros == (15 + 2 + 6) * YUAN
    assert only(once, act.Grant).increment_micros == lease_micros
    assert only(once, act.Grant).aside_micros == 0
    wish = replace(QUEUED.spec.instance, instance_id="i-7")
    adopted = replace(QUEUED, spec=replace(QUEUED.spec, instance=wish))
    assert only(adopted, act.Grant).aside_micros == 0


def test_nothing_is_rented_before_the_price_is_known() -> None:
    """Without a tariff there is no lease."""
    assert kinds(replace(QUEUED, tariff=None)) == ["AskPrice"]


def test_a_budget_too_small_for_a_lease_rents_nothing() -> None:
    """It ends with the verdict budget, and no create."""
    snap = replace(QUEUED, accounts=(Account("job x", 40 * YUAN, 0, 0, 0),))
    assert kinds(snap) == ["Conclude", "Finish"]
    assert only(snap, act.Conclude).verdict.reason == "budget"


def test_an_open_create_is_looked_up_and_never_repeated() -> None:
    """Whether it took effect is found out by reading."""
    assert kinds(replace(QUEUED, open_intents=frozenset({"create"}))) == ["ResolveCreate"]
    unclear = replace(INSTANCE, provider_id=None)
    assert kinds(replace(QUEUED, instance=unclear)) == ["ResolveCreate"]


def test_no_capacity_is_waited_out() -> None:
    """Nothing is called before the time is up."""
    assert kinds(replace(QUEUED, retry_at_ms=NOW.utc_ms + 1)) == ["SetState"]
    assert kinds(replace(QUEUED, retry_at_ms=NOW.utc_ms)) == ["Grant", "Create", "SetState"]


def test_a_price_above_the_limit_rents_nothing() -> None:
    """max_price_yuan_per_hour is a promise."""
    wish = InstanceWish(provider="local", max_price_micros_per_hour=1)
    assert kinds(replace(QUEUED, spec=replace(SPEC, instance=wish))) == ["Conclude", "Finish"]


def test_a_lease_is_renewed_at_half_money_first_then_the_timer() -> None:
    """Reserve, then re-arm; the agent is granted from what was read back."""
    half = NOW.plus_ms(10_000)
    assert "Grant" not in kinds(RUNNING, NOW)
    assert kinds(RUNNING, half)[:2] == ["Grant", "ArmTimer"]
    timer = only(RUNNING, act.ArmTimer, half)
    assert timer.timer_at_ms == timer.end_ms + 10_000


def test_a_timer_that_lags_behind_the_lease_is_armed_again() -> None:
    """Money assumes the later end, saving the earlier, until it is read back."""
    lagging = replace(RUNNING, armed_end=NOW.plus_ms(20_000))
    assert only(lagging, act.ArmTimer).end_ms == LEASE.end.utc_ms


def test_a_heartbeat_is_answered_once_with_the_lease() -> None:
    """The agent counts from when it sent that heartbeat."""
    assert only(RUNNING, act.SendLease).heartbeat == 7
    answered = replace(RUNNING, link=replace(ATTACHED, leased_heartbeat=7))
    assert "SendLease" not in kinds(answered)


def test_a_silent_agent_is_not_renewed() -> None:
    """Blind is bounded in money by the lease."""
    silent = replace(ATTACHED, heard=NOW.plus_ms(-61_000))
    assert "Grant" not in kinds(replace(RUNNING, link=silent), NOW.plus_ms(10_000))


def test_the_last_lease_is_saved_and_stopped_before_its_end() -> None:
    """The next one does not fit: save while there is still money for it."""
    poor = replace(RUNNING, accounts=(Account("job x", 76 * YUAN, 20 * YUAN, 56 * YUAN, 0),))
    late = NOW.plus_ms(36_000)
    fresh = replace(poor, link=replace(ATTACHED, heard=late))
    assert only(fresh, act.Conclude, late).verdict.reason == "budget"
    assert "Save" in kinds(fresh, late)
    assert "StopPower" not in kinds(fresh, late)


def test_running_found_after_the_leases_end_is_stopped_first() -> None:
    """A daemon that comes back asks questions later."""
    back = NOW.plus_ms(3_600_000)
    assert only(RUNNING, act.Conclude, back).verdict.reason == "blind"


def test_running_without_a_lease_is_stopped() -> None:
    """No lease covers it: overrun, and off."""
    bare = replace(RUNNING, lease=None, armed_end=None)
    assert only(bare, act.Conclude).verdict.reason == "budget"


def test_a_price_rise_that_does_not_fit_stops_now() -> None:
    """The open lease is re-priced in the pass that sees it."""
    poor = (Account("job x", 80 * YUAN, 20 * YUAN, 56 * YUAN, 0),)
    dear = replace(RUNNING, tariff=Tariff(7_200 * YUAN, 1), accounts=poor)
    assert only(dear, act.Conclude).verdict.reason == "budget"


def test_a_price_rise_that_fits_is_reserved_at_once() -> None:
    """Not only at half of the lease."""
    assert kinds(replace(RUNNING, tariff=Tariff(7_200 * YUAN, 1)))[0] == "Grant"


def test_a_cap_cut_below_what_is_spent_stops_and_grants_nothing() -> None:
    """Breach: facts stay, granting ends."""
    snap = replace(RUNNING, accounts=(Account("job x", 10 * YUAN, 20 * YUAN, 56 * YUAN, 0),))
    assert "Grant" not in kinds(snap)
    assert only(snap, act.Conclude).verdict.reason == "budget"


def test_a_finished_run_is_pulled_before_it_is_switched_off() -> None:
    """The missing artifact first, then the stop call."""
    done = replace(RUNNING.training, exit=Exit(0, None, artifact_complete=True))
    waiting = ArtifactFacts(3, "adapter", "adapter", 9, pulled=False, pulling=False, failed=False)
    snap = replace(RUNNING, training=done, artifacts=(waiting,))
    assert kinds(snap) == ["Conclude", "Pull", "SetState"]
    home = replace(snap, artifacts=(replace(waiting, pulled=True),))
    assert kinds(home) == ["Conclude", "StopPower", "SetState"]


def test_saving_is_given_its_grace_and_no_more() -> None:
    """After the grace the power goes off, saved or not."""
    asked = replace(concluded(RUNNING, "stalled"), link=replace(ATTACHED, stop_sent=True))
    assert kinds(asked) == ["SetState"]
    assert "StopPower" in kinds(
        replace(asked, link=replace(asked.link, heard=NOW.plus_ms(10_001))), NOW.plus_ms(10_001)
    )


@pytest.mark.parametrize("reason", ["blind", "platform"])
def test_without_a_line_nothing_is_waited_for(reason: str) -> None:
    """Nothing in the stopping path needs SSH."""
    snap = replace(concluded(RUNNING, reason), link=LinkFacts(state="lost"))
    assert kinds(snap) == ["StopPower", "SetState"]


def test_an_accepted_stop_is_awaited_and_then_repeated_with_an_alarm() -> None:
    """202 is not stopped, and it is never given up."""
    called = replace(INSTANCE, stop_calls=1, stop_accepted=True, last_call=NOW)
    snap = replace(concluded(RUNNING, "idle"), link=LinkFacts(), instance=called)
    assert "StopPower" not in kinds(snap, NOW.plus_ms(4_999))
    again = kinds(snap, NOW.plus_ms(6_000))
    assert again[:2] == ["Alarm", "StopPower"]
    late = replace(snap, instance=replace(called, stop_calls=500))
    assert "StopPower" in kinds(late, NOW.plus_ms(60_000))


def test_stopped_is_shown_only_after_two_reads() -> None:
    """One read off: wait. Two, a poll apart, after the last call: settle and finish."""
    called = replace(INSTANCE, stop_calls=1, last_call=NOW.plus_ms(-5_000), power=Power.STOPPED)
    snap = concluded(RUNNING, "idle")
    once = replace(snap, instance=replace(called, reads=off(-100)))
    assert kinds(once) == ["SetState"]
    twice = replace(snap, instance=replace(called, reads=off(-1_500, -100)))
    assert only(twice, act.Finish).state == "paused"


def test_off_before_it_was_ever_on_is_not_stopped() -> None:
    """A platform may show off while it is still starting what we asked for."""
    fresh = replace(INSTANCE, was_on=False, reads=off(-1_500, -100), power=Power.STOPPED)
    assert "Finish" not in kinds(replace(concluded(RUNNING, "user"), instance=fresh))
    assert "StopPower" in kinds(replace(concluded(RUNNING, "user"), instance=fresh))


def test_an_instance_that_went_off_by_itself_ends_the_run() -> None:
    """Someone else switched it off: platform, with the proof already there."""
    gone = replace(INSTANCE, reads=off(-1_500, -100), power=Power.STOPPED)
    snap = replace(RUNNING, instance=gone)
    assert only(snap, act.Conclude).verdict.reason == "platform"
    assert only(snap, act.Finish).state == "paused"


def test_a_failed_run_ends_failed_and_a_finished_one_finished() -> None:
    """The final state follows the reason."""
    called = replace(INSTANCE, stop_calls=1, last_call=NOW.plus_ms(-5_000), reads=off(-1_500, -1))
    for reason in ("failed", "finished"):
        snap = replace(concluded(RUNNING, reason), instance=called)
        assert only(snap, act.Finish).state == reason


def test_what_someone_switches_on_after_the_end_is_switched_off() -> None:
    """Nothing of ours runs uncovered."""
    snap = replace(RUNNING, state="finished", lease=None, armed_end=None)
    assert kinds(snap) == ["Alarm", "StopPower"]


def test_release_comes_after_the_proof_only() -> None:
    """A running instance is stopped before it is given back."""
    assert "Release" not in kinds(replace(RUNNING, wish="release"))
    ended = replace(
        RUNNING,
        state="paused",
        wish="release",
        instance=replace(INSTANCE, power=Power.STOPPED, reads=off(-1_500, -1)),
    )
    assert kinds(ended) == ["Release"]


def test_max_hours_ends_the_run() -> None:
    """The person's own limit."""
    limited = replace(SPEC, guards=GuardLimits(max_ms=8_000))
    assert only(replace(RUNNING, spec=limited), act.Conclude).verdict.reason == "max_hours"


def test_training_that_cannot_be_started_is_not_paid_for_ever() -> None:
    """Renting without training is bounded."""
    stuck = replace(RUNNING, training=TrainingFacts(), link=LinkFacts(state="lost"))
    impatient = replace(SPEC, guards=GuardLimits(prepare_within_ms=29_000))
    assert only(replace(stuck, spec=impatient), act.Conclude).verdict.reason == "platform"
