from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from costguard.core.decide import STOP_RETRY_MS
from costguard.core.power import Power, PowerRead
from costguard.providers.base import Unclear
from costguard.store.models import PowerInterval
from tests.daemon.world import FINAL, LEASE_MS, YUAN, spec_of

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.providers.base import InstanceView, ProviderError
    from tests.daemon.fake_cloud import Machine
    from tests.daemon.world import World


def pause(world: World) -> Machine:
    """A machine whose job trains and has just been asked to pause."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.commands.pause({"job": "job"})
    return machine


def test_an_ignored_stop_is_repeated_alarmed_and_charged(world: World) -> None:
    """It keeps trying, says so each time, and the books run on with the meter."""
    machine = pause(world)
    world.cloud.habits.stop_ignored = 3
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    world.until(lambda: len(machine.stop_calls_ms) == 3, within_s=60)
    before = world.posted()
    world.run(5)
    assert world.job().state == "pausing"
    assert world.posted() > before
    assert len(world.alarms("STOP NOT CONFIRMED")) >= 2
    world.until_final()
    assert len(machine.stop_calls_ms) == 4
    assert len(world.events("stop_not_confirmed")) == 3
    world.assert_books()


def test_a_stop_is_never_given_up(world: World) -> None:
    """An hour of refusals: still calling, still alarming, still not called stopped."""
    pause(world)
    world.cloud.fail("stop")
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    world.run(20)
    gaps = [later - earlier for earlier, later in pairwise(world.cloud.routes("stop"))]
    assert gaps == sorted(gaps), "the back-off only grows"
    world.audit.trail.clear()
    world.tick(3_600_000)  # whatever the daemon slept through
    for _ in range(5):
        world.tick(STOP_RETRY_MS[-1])
    calls = world.cloud.routes("stop")
    assert calls[-1] - calls[-2] == STOP_RETRY_MS[-1]
    assert len(world.events("stop_not_confirmed")) == len(calls) - 1
    assert world.job().state == "pausing"
    assert world.pending() == 0 or "settle" not in world.audit.trail
    world.cloud.heal()
    world.until_final()
    world.assert_books()


def test_what_runs_on_beyond_the_reservation_is_booked_as_overrun(world: World) -> None:
    """Facts are recorded past the lease and past the cap: breach, loudly, and nothing granted."""
    world.set_script(steps=500)
    machine = world.start_training(spec_of(yuan=0.35))
    world.cloud.habits.stop_ignored = 5
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    world.until(lambda: len(machine.stop_calls_ms) == 5, within_s=150)
    grants = world.audit.grants
    job = world.job()
    assert job.breach
    assert world.posted() > job.cap_micros
    assert world.events("overrun")
    world.until_final()
    assert world.audit.grants == grants
    world.assert_books()


def test_off_but_billing_is_not_stopped(world: World) -> None:
    """Off and still charged is treated as running: charged, alarmed, called again."""
    machine = pause(world)
    world.cloud.habits.off_but_billing = True
    world.until(lambda: machine.power == "off", within_s=20)
    world.run(10)
    before = world.posted()
    world.run(10)
    assert world.posted() >= before + 90_000
    assert world.job().state == "pausing"
    assert len(machine.stop_calls_ms) >= 2
    world.cloud.stop_billing_off()
    world.until_final()
    world.assert_books()


def test_a_slow_stop_is_waited_for(world: World) -> None:
    """Slower than documented: repeated, charged to its end, believed when seen."""
    machine = pause(world)
    world.cloud.habits.stop_ms = 9_000
    world.until_final()
    assert len(machine.stop_calls_ms) >= 2
    world.assert_books()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [Unclear("500"), Unclear("429", retry_after_s=5)])
def test_an_unclear_stop_is_repeated_until_it_is_seen(
    error: ProviderError, after: bool, world: World
) -> None:
    """With or without effect: the proof is in the reads, not in the answer."""
    pause(world)
    world.cloud.fail("stop", error, times=2, after=after, takes_ms=300)
    world.until_final()
    assert world.job().state == "paused"
    world.assert_books()


def test_stopped_needs_two_reads_after_the_last_call_a_poll_apart(world: World) -> None:
    """I4, from outside: reads that say off, both begun after the call, at least a poll apart."""
    machine = pause(world)
    world.until_final()
    confirmed = world.events("stop_confirmed")[0]
    called_ms = machine.stop_calls_ms[-1]
    reads = [at for at in world.cloud.routes("read") if called_ms < at <= confirmed.at_ms]
    off = [at for at in reads if machine.stopped_ms is not None and at >= machine.stopped_ms]
    assert len(off) == 2
    assert off[1] - off[0] >= world.cloud.facts.poll_interval_ms


def test_a_read_that_says_on_again_starts_the_proof_anew(world: World) -> None:
    """Off once, on again: not stopped, and stopped once more."""
    machine = pause(world)
    world.until(lambda: machine.power == "stopped", within_s=30)
    world.work()
    world.cloud.switch_on(machine)
    world.run(3)
    assert world.job().state not in FINAL
    world.until_final()
    assert len(machine.stop_calls_ms) >= 2
    assert len(world.rows(PowerInterval, PowerInterval.kind == "running")) == 2
    world.assert_books()


def test_nothing_is_settled_before_the_proof(world: World) -> None:
    """The reservation stays whole while the platform says nothing."""
    pause(world)
    world.until(lambda: world.cloud.machines[0].stop_calls_ms, within_s=30)
    world.cloud.fail("read")
    pending = world.pending()
    world.run(20)
    assert world.pending() == pending
    assert world.job().state == "pausing"
    world.cloud.heal()
    world.until_final()
    assert world.pending() == 0
    world.assert_books()


def test_a_platform_that_does_not_answer_is_charged_as_running(world: World) -> None:
    """After half a minute the books go on by our own clock, up to the timer; then are mended."""
    pause(world)
    world.until(lambda: world.cloud.machines[0].stop_calls_ms, within_s=30)
    world.cloud.fail("read")
    before = world.posted()
    world.run(60)
    assert world.posted() >= before + LEASE_MS // 1_000 * 10_000
    assert world.events("overrun") == []
    assert len(world.events("assumed_run")) == 1
    world.cloud.heal()
    world.until_final()
    assert any(entry.kind == "adjust" for entry in world.ledger())
    world.assert_books()


def test_absent_is_unknown_until_absent_for_ten_minutes(world: World) -> None:
    """One 404 proves nothing; ten minutes of them are a released instance."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.cloud.vanish(machine)
    gone_ms = world.clock.true_ms
    for _ in range(59):
        world.tick(10_000)
    assert world.job().state not in FINAL
    world.until_final()
    assert world.clock.true_ms - gone_ms >= 600_000
    assert world.job().pause_reason in ("platform", "blind")
    assert world.pending() == 0


def test_absent_for_a_moment_only_is_forgiven(world: World) -> None:
    """A platform that forgets for some seconds ends nothing."""
    world.set_script(steps=40)
    world.start_training()
    world.cloud.habits.is_absent = True
    world.run(8)
    world.cloud.habits.is_absent = False
    world.until_final()
    assert world.job().state == "finished"
    world.assert_books()


def test_absence_is_remembered_over_a_restart(world: World) -> None:
    """A daemon that is restarted every few minutes comes to an end all the same."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.cloud.vanish(machine)
    gone_ms = world.clock.true_ms
    for _ in range(8):
        world.restart(100_000)
        world.tick()
    world.until_final()
    assert world.clock.true_ms - gone_ms <= 900_000


def test_what_someone_switches_on_after_the_end_is_booked_and_stopped(world: World) -> None:
    """Overrun, loudly, and off again; the books match the bill."""
    machine = pause(world)
    world.until_final()
    world.cloud.switch_on(machine)
    world.until(lambda: len(machine.runs) == 2, within_s=10)
    world.until(lambda: not world.cloud.charged, within_s=200)
    world.run(61)
    assert world.events("running_without_lease")
    assert world.events("overrun")
    assert world.alarms("running that should be off")
    world.assert_books()


def test_switched_on_and_off_between_two_looks_is_charged(world: World) -> None:
    """I3: every second that the platform meters, even where no read ever showed it on."""
    machine = pause(world)
    world.until_final()
    world.run(3)
    world.cloud.switch_on(machine)
    world.pass_time(5_000)
    world.cloud.switch_off(machine)
    world.run(70)
    assert len(machine.runs) == 2
    world.assert_books()


def test_switching_on_again_and_again_is_stopped_each_time(world: World) -> None:
    """The second time is no different from the first."""
    machine = pause(world)
    world.until_final()
    for count in (2, 3):
        world.cloud.switch_on(machine)
        world.until(lambda count=count: len(machine.runs) == count, within_s=10)  # type: ignore[misc]
        world.until(lambda: not world.cloud.charged, within_s=200)
    world.run(61)
    world.assert_books()


def test_a_daemon_that_gave_way_is_not_needed_for_the_proof_of_cost(world: World) -> None:
    """The bill is read after the stop, beside the books."""
    pause(world)
    world.until_final()
    assert world.instances[0].bill_micros == world.cloud.machine_micros(world.cloud.machines[0])
    assert world.job().cap_micros == 5 * YUAN


def test_an_answer_of_unknown_about_what_was_proven_off_costs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows nothing; should it be on, it is charged from the last read that was off."""
    pause(world)
    world.until_final()
    posted, read = world.posted(), world.cloud.read

    def unknown(instance_id: str, now: Moment) -> InstanceView:
        return replace(read(instance_id, now), read=PowerRead(Power.UNKNOWN, now))

    monkeypatch.setattr(world.cloud, "read", unknown)
    world.run(130)
    assert world.posted() == posted
    world.assert_books()
