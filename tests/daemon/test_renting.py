from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.core.money import yuan_text
from costguard.daemon.rent import is_armed
from costguard.errors import UserError
from costguard.providers.base import AuthRefused, Refused
from costguard.report.status import Shelf, job_row
from costguard.store.database import Store
from costguard.store.head import HeadState
from costguard.store.ledger import accounts, pending_by_job
from costguard.store.verify import verify
from tests.daemon.world import FINAL, LEASE_MS, YUAN, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.world import World


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("is_slow", [False, True])
def test_an_unclear_create_comes_to_exactly_one_instance(
    after: bool, is_slow: bool, world: World
) -> None:
    """With or without effect: found by our tag, or rented again once it is surely not there."""
    world.set_script(steps=5)
    world.cloud.fail("create", times=1, after=after, takes_ms=6_000 if is_slow else 0)
    world.submit()
    world.until_final()
    assert world.job().state == "finished"
    assert len(world.cloud.machines) == 1
    assert len(world.cloud.routes("create")) == (1 if after else 2)
    assert world.intents("create")[-1].state == "done"
    world.assert_books()


def test_an_unclear_create_that_lists_show_late_is_still_one(world: World) -> None:
    """Missing from lists for some seconds is not "never made"."""
    world.set_script(steps=5)
    world.cloud.fail("create", times=1, after=True)
    world.cloud.habits.lists_after_ms = 9_000
    world.submit()
    world.until_final()
    assert (world.job().state, len(world.cloud.machines)) == ("finished", 1)
    world.assert_books()


def test_a_list_that_fails_proves_no_absence(world: World) -> None:
    """Nothing is rented again while the platform cannot be asked."""
    world.cloud.fail("create", times=1, after=True)
    world.cloud.fail("list")
    world.submit()
    world.run(60)
    assert len(world.cloud.routes("create")) == 1
    world.cloud.heal()
    world.until_final()
    assert len(world.cloud.machines) == 1
    assert world.job().pause_reason == "blind"  # its lease had run out meanwhile
    world.assert_books()


def test_absence_between_failing_lists_is_not_supposed(world: World) -> None:
    """Two looks a quarter of a minute apart, with nothing but errors between them, are too few."""
    world.cloud.fail("create", times=1, after=True)
    world.cloud.habits.lists_after_ms = 19_000
    world.submit()
    world.run(2)
    world.cloud.fail("list")
    world.run(15)
    world.cloud.heal()
    world.until_final()
    assert len(world.cloud.machines) == 1
    world.assert_books()


def test_a_second_instance_of_one_call_is_charged_and_stopped(world: World) -> None:
    """The platform made twins: one is used, the other is switched off, within what was reserved."""
    world.set_script(steps=30)
    world.cloud.habits.makes_twins = True
    world.cloud.fail("create", times=1, after=True)
    world.start_training()
    assert len(world.cloud.machines) == 2
    world.run(5)
    twin = next(one for one in world.cloud.machines if one is not world.agent.machine)
    assert twin.stopped_ms is not None
    assert world.alarms("second instance")
    assert world.posted("job.stray-m-2") > 0
    assert world.events("overrun") == []
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_what_a_second_instance_cost_stays_in_the_cap_of_its_job(world: World) -> None:
    """The books of the stray have it; what the job may still promise is less by it."""
    world.set_script(steps=500)
    world.cloud.habits.makes_twins = True
    world.cloud.fail("create", times=1, after=True)
    world.start_training()
    world.until_final(name="job.stray-m-2")
    cost = world.posted("job.stray-m-2")
    with Store.read(world.store) as session:
        (account,) = accounts(session, world.job(), world.caps, ())
        assert account.pending_micros == pending_by_job(session)[world.job().id] + cost
        row = job_row(session, world.job(), Shelf.of(session, [world.job()]), 0, daemon_runs=True)
        assert row["budget"]["left_yuan"] == yuan_text(account.left_micros or 0)
        findings = verify(session, HeadState.MISSING).findings
    assert [found.code for found in findings] == ["head_missing"]
    assert cost > 0


def test_an_instance_that_may_be_one_of_two_is_looked_for_again(world: World) -> None:
    """The answer was lost, and the second one is listed later than the first."""
    world.set_script(steps=500)
    world.cloud.habits.makes_twins = True
    world.cloud.fail("create", times=1, after=True)
    world.cloud.fail("list", times=1)
    world.submit()
    world.tick()
    world.cloud.machines[1].visible_ms = world.clock.true_ms + 10_000
    world.until_state("training", within_s=30)
    assert world.chores.watch_again() == []
    world.run(15)
    assert world.chores.watch_again() == ["m-2"]
    assert world.chores.watch_again() == []


def test_the_stop_of_a_second_instance_is_never_given_up(world: World) -> None:
    """Refused again and again, it is called again and again; no timer of the platform helps."""
    world.set_script(steps=500)
    world.cloud.habits.makes_twins = True
    world.cloud.fail("create", times=1, after=True)
    world.cloud.fail("stop", times=4)
    world.submit()
    world.until(lambda: world.cloud.machines)
    twin = world.cloud.machines[1]
    twin.timer_ms = None
    world.until(lambda: twin.stopped_ms is not None, within_s=90)
    assert len(twin.stop_calls_ms) == 1
    assert len(world.alarms("the stop call failed")) == 4
    world.until_final(name="job.stray-m-2")
    assert world.job().state == "training"
    world.commands.pause({"job": "job"})
    world.until_final()
    world.assert_books()


def test_what_appears_after_it_was_given_up_is_charged_and_stopped(world: World) -> None:
    """Created unclearly and listed only after we had rented anew: ours, so ours to stop."""
    world.set_script(steps=60)
    world.cloud.fail("create", times=1, after=True)
    world.cloud.habits.lists_after_ms = 40_000
    world.submit()
    world.until(lambda: len(world.cloud.machines) == 2, within_s=40)
    world.cloud.machines[0].timer_ms = None
    world.cloud.machines[1].visible_ms = 0
    world.cloud.habits.lists_after_ms = 0
    assert world.chores.watch_strays() == []
    world.run(20)
    assert world.chores.watch_strays() == [world.cloud.machines[0].id]
    assert world.chores.watch_strays() == []
    world.until(lambda: not world.cloud.machines[0].is_charged, within_s=20)
    assert world.job().state == "training"
    world.until_final()
    world.assert_books()


def test_a_twin_of_a_clear_create_is_found_by_the_watch(world: World) -> None:
    """Nobody looked at the lists when the call was answered."""
    world.set_script(steps=20)
    world.cloud.habits.makes_twins = True
    world.start_training()
    assert world.chores.watch_strays() == ["m-2"]
    world.until_final()
    stray = world.job("job.stray-m-2")
    world.until_state("paused", name=stray.name)
    assert world.events("overrun") == []
    world.assert_books()


def test_an_unclear_create_is_no_stray(world: World) -> None:
    """The watch leaves alone what a create call may still turn out to have made."""
    world.cloud.fail("create", times=1, after=True)
    world.cloud.fail("list", times=3)
    world.submit()
    world.tick()
    world.cloud.heal()
    assert len(world.cloud.machines) == 1
    assert world.chores.watch_strays() == []


def test_no_capacity_is_waited_out_without_money(world: World) -> None:
    """Waiting holds no reservation, says so, and rents as soon as there is something."""
    world.set_script(steps=5)
    world.cloud.habits.no_capacity = True
    world.submit()
    world.run(65)
    assert world.job().state == "waiting_capacity"
    assert world.pending() == 0
    assert len(world.cloud.routes("create")) == 3
    world.cloud.habits.no_capacity = False
    world.until_final()
    assert world.job().state == "finished"
    assert len(world.cloud.machines) == 1
    world.assert_books()


@pytest.mark.parametrize("error", [Refused("no such image"), AuthRefused("token expired")])
def test_a_refused_create_ends_the_job_and_nothing_is_rented(error: Refused, world: World) -> None:
    """A definite no is not tried for ever."""
    world.cloud.fail("create", error)
    world.submit()
    world.until_final()
    job = world.job()
    assert (job.state, job.pause_reason) == ("paused", "platform")
    assert str(error) in (job.verdict_text or "")
    assert world.cloud.machines == []
    assert world.pending() == 0
    assert world.posted() == 0


def test_a_job_that_never_rented_is_released_at_once(world: World) -> None:
    """There is nothing to give back."""
    world.cloud.fail("create", Refused("no such image"))
    world.submit()
    world.until_final()
    world.commands.release({"job": "job"})
    world.tick()
    assert world.job().state == "released"
    assert world.cloud.routes("release") == []


def test_a_wish_to_pause_while_waiting_rents_nothing(world: World) -> None:
    """The user's word comes before capacity."""
    world.cloud.habits.no_capacity = True
    world.submit()
    world.run(3)
    world.commands.pause({"job": "job"})
    world.until_final(within_s=35)
    world.cloud.habits.no_capacity = False
    world.run(60)
    assert world.cloud.machines == []


def test_a_wish_to_pause_while_a_create_is_unclear_stops_what_was_made(world: World) -> None:
    """First find it, then stop it."""
    world.cloud.fail("create", times=1, after=True)
    world.cloud.habits.lists_after_ms = 5_000
    world.submit()
    world.run(2)
    world.commands.pause({"job": "job"})
    world.until_final()
    assert world.job().pause_reason == "user"
    assert len(world.cloud.machines) == 1
    world.assert_books()


def test_a_budget_too_small_is_refused_with_the_arithmetic(world: World) -> None:
    """What, for how long, at which price: and nothing is rented or written."""
    with pytest.raises(UserError) as refused:
        world.submit(spec_of(yuan=0.1))
    assert refused.value.code == "budget_too_small"
    assert "28 s at 36.00 yuan/h" in refused.value.what
    assert "0.28" in refused.value.what
    world.run(5)
    assert world.cloud.machines == []
    assert world.ledger() == []


def test_the_disk_counts_against_the_cap_from_the_start(make_world: Callable[..., World]) -> None:
    """F: what keeping the disk will cost is held back, then metered."""
    world = make_world(disk_price=1_800_000)  # 1.8 yuan an hour, kept for one
    world.set_script(steps=500)
    with pytest.raises(UserError, match=r"disk 1\.80 leaves 0\.20"):
        world.submit(spec_of(yuan=2))
    world.submit(spec_of(yuan=2.5))
    world.until_final()
    assert world.job().pause_reason == "budget"
    assert world.job().hold_micros > 0
    for _ in range(62):
        world.tick(60_000)
    bill = world.cloud.machine_micros(world.cloud.machines[0])
    assert abs(world.posted() - bill) <= 100_000
    assert world.posted() <= 2.5 * YUAN + 100_000


def test_a_price_above_the_limit_rents_nothing(world: World) -> None:
    """max_price_yuan_per_hour holds."""
    world.submit(spec_of(wish={"max_price_micros_per_hour": 20 * YUAN}))
    world.until_final()
    assert world.job().pause_reason == "platform"
    assert world.cloud.machines == []


def test_an_instance_that_never_comes_up_is_given_back_to_the_platform(world: World) -> None:
    """Starting for ever costs nothing here, and ends all the same."""
    world.cloud.habits.start_ms = 10**9
    world.submit(spec_of(guards={"prepare_within_ms": 30_000}))
    world.until_final()
    assert world.job().pause_reason == "platform"
    assert world.posted() == 0


def test_a_create_that_is_off_again_before_it_was_seen_is_charged(world: World) -> None:
    """The daemon was away from just after the create until after its end."""
    world.submit()
    world.tick()
    assert world.cloud.routes("create")
    world.restart(2 * LEASE_MS + 20_000)
    world.until_final()
    assert world.job().state in FINAL
    assert world.posted() > 0
    world.assert_books()


@pytest.mark.parametrize(
    ("back_ms", "step_ms", "armed"),
    [
        (600_000, 1_000, True),
        (599_000, 1_000, True),
        (598_999, 1_000, False),
        (540_001, 60_000, True),  # EventBridge keeps whole minutes, rounded down
        (539_999, 60_000, False),
        (601_001, 60_000, False),  # later than what is reserved
        (None, 60_000, False),
    ],
)
def test_a_timer_is_armed_at_most_its_own_step_early(
    back_ms: int | None, step_ms: int, armed: bool
) -> None:
    """Else a platform that keeps whole minutes would never have an armed lease."""
    assert is_armed(back_ms, 600_000, step_ms) is armed
