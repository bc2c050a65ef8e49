from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from costguard.errors import UserError
from costguard.report.figures import time_text
from costguard.store.models import LedgerEntry, PowerInterval
from tests.daemon.world import YUAN

if TYPE_CHECKING:
    from tests.daemon.fake_cloud import Machine
    from tests.daemon.world import World


def vanish(world: World) -> Machine:
    """A training whose platform and agent both fall silent: nobody can say whether it runs."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.run(3)
    world.cloud.habits.is_absent = True
    world.cloud.fail("stop")
    world.line.cut()
    world.run(2)
    return machine


def stop_by_hand(world: World, machine: Machine) -> int:
    """Somebody pulls the plug, which nobody can see from here; when that was, on our clock."""
    world.cloud.switch_off(machine)
    world.run(3)
    assert machine.stopped_ms is not None
    return world.clock.now().utc_ms


def confirm(world: World, at_ms: int) -> dict[str, Any]:
    """The command, for a time on the daemon's clock."""
    return world.commands.confirm_stopped({"job": "job", "at": time_text(at_ms)})


def test_an_attested_stop_closes_the_meter_at_its_time(world: World) -> None:
    """What was charged beyond it by assumption is given back, and the entry says why."""
    at_ms = stop_by_hand(world, vanish(world))
    world.run(45)
    before = world.posted()
    answer = confirm(world, at_ms)
    assert answer["proven"] is False
    (interval,) = world.rows(PowerInterval, PowerInterval.kind == "running")
    assert interval.ended_ms == at_ms
    assert interval.posted_micros == (at_ms - interval.started_ms + 999) // 1_000 * YUAN // 100
    assert world.posted() < before
    adjusted = world.rows(LedgerEntry, LedgerEntry.kind == "adjust")
    assert [each.note for each in adjusted] == ["a person attested that it had stopped by then"]


def test_the_job_ends_on_it_and_it_is_shown_as_attested_only(world: World) -> None:
    """Nothing says "confirmed", and the lease's remainder is settled with that word."""
    confirm(world, stop_by_hand(world, vanish(world)))
    world.until_final(within_s=10)
    assert world.job().state == "paused"
    assert world.events("stop_attested")
    assert not world.events("stop_confirmed")
    assert world.instances[0].stopped_seen_ms is None
    (settled,) = world.rows(LedgerEntry, LedgerEntry.kind == "settle")
    assert settled.note == "a person attested the stop"
    assert world.pending() == 0
    posted = world.posted()
    world.run(60)
    assert world.posted() == posted, "the meter rests on that word"


def test_a_time_to_come_is_refused(world: World) -> None:
    """Nobody can have seen it."""
    vanish(world)
    with pytest.raises(UserError, match="still to come"):
        confirm(world, world.clock.now().utc_ms + 1_000)
    assert world.instances[0].attested_stop_ms is None


def test_a_time_at_which_it_was_seen_running_is_refused(world: World) -> None:
    """By the platform or by its own telemetry; later than that is taken."""
    vanish(world)
    with pytest.raises(UserError, match=r"was seen running [1-9] s after that time"):
        confirm(world, world.clock.now().utc_ms - 5_500)
    assert world.instances[0].attested_stop_ms is None


@pytest.mark.parametrize("at", ["yesterday", "2026-11-24T23:40:00", "", None])
def test_a_time_without_its_offset_is_refused(world: World, at: str | None) -> None:
    """Which hour is meant must not be guessed."""
    vanish(world)
    with pytest.raises(UserError, match="no time with an offset"):
        world.commands.confirm_stopped({"job": "job", "at": at})


def test_a_job_without_an_instance_has_nothing_to_attest(world: World) -> None:
    """Nothing was rented."""
    world.cloud.habits.no_capacity = True
    world.submit()
    world.run(2)
    with pytest.raises(UserError, match="nothing was rented"):
        confirm(world, world.clock.now().utc_ms)


@pytest.mark.parametrize("in_time", [True, False])
def test_a_platform_that_knows_better_takes_the_word_back(
    world: World, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    """Metered again from the attested stop, said aloud, stopped for real: on still, or just off."""
    machine = vanish(world)
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    # The auditor rightly finds that what is settled on a wrong word still costs money.
    monkeypatch.setattr(world.audit, "_check_stopped", lambda *_: None)
    confirm(world, world.clock.now().utc_ms)
    world.until_final(within_s=10)
    assert machine.is_charged, "the person was wrong"
    world.run(20)
    if not in_time:
        world.cloud.switch_off(machine)
        world.run(2)
    world.cloud.heal()
    world.cloud.habits.is_absent = False
    world.until(lambda: world.events("attestation_contradicted"), within_s=70)
    world.until(lambda: machine.stopped_ms is not None, within_s=10)
    assert world.instances[0].attested_stop_ms is None
    world.run(130)
    world.assert_books()
