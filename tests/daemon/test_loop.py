from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from costguard.core.moment import MS_PER_S, Moment
from costguard.daemon.clock import SystemClock
from costguard.daemon.loop import Loop
from costguard.daemon.passes import JobPasses
from tests.daemon.fake_clock import FakeClock
from tests.daemon.fake_cloud import FACTS
from tests.daemon.world import FINAL, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 20.0
QUICK = replace(FACTS, poll_interval_ms=50, stop_latency_ms=200)


class LiveClock(FakeClock):
    """The machine's own clocks, where a test has threads."""

    def __init__(self) -> None:
        self._clock = SystemClock()

    @property
    def true_ms(self) -> int:  # type: ignore[override]
        """UTC, which here is the truth."""
        return self._clock.now().utc_ms

    def now(self) -> Moment:
        """Both clocks."""
        return self._clock.now()

    def advance(self, ms: int) -> None:
        """Nothing to move."""


class LiveWorld(World):
    """A world whose loop runs on threads, as the daemon's does."""

    def __init__(self, folder: Path, template: Path) -> None:
        super().__init__(folder, template, facts=QUICK)
        self.clock = self.cloud.clock = self.line.clock = LiveClock()
        habits = self.cloud.habits
        habits.start_ms = habits.stop_ms = 20
        self.kill()
        self.boot()
        self.executor = ThreadPoolExecutor(4)
        self.loop = Loop(self.context, self.executor)
        self.commands._wake = self.loop.wake
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def close(self) -> None:
        """End the loop, as SIGTERM does."""
        self.loop.stop()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self.kill()

    def wait(self, condition: Callable[[], Any]) -> None:
        """Until it holds, for real."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "it did not come in time"
            time.sleep(0.01)


@pytest.fixture
def live(tmp_path: Path, template: Path) -> Iterator[LiveWorld]:
    """A world with threads, ended in order."""
    world = LiveWorld(tmp_path, template)
    yield world
    world.close()


def running(live: LiveWorld, *names: str) -> None:
    """Jobs whose instances run; nobody answers on them."""
    for name in names:
        live.submit(spec_of(name))
        live.wait(lambda name=name: live.job(name).state == "preparing")  # type: ignore[misc]


def test_a_platform_call_that_hangs_delays_no_other_jobs_stop(live: LiveWorld) -> None:
    """One hanging account; the other job is stopped, and seen to be, meanwhile."""
    running(live, "hangs", "other")
    hanging, let_go = threading.Event(), threading.Event()
    audited = live.cloud.on_call

    def hang(route: str, target: str, timer_ms: int | None) -> None:
        audited(route, target, timer_ms)
        if target == "m-1" and not let_go.is_set():
            hanging.set()
            let_go.wait(DEADLINE_S)

    live.cloud.on_call = hang
    try:
        assert hanging.wait(DEADLINE_S)
        live.commands.pause({"job": "other"})
        live.wait(lambda: live.job("other").state in FINAL)
        assert live.job("hangs").state == "preparing"
    finally:
        let_go.set()
    live.commands.pause({"job": "hangs"})
    live.wait(lambda: live.job("hangs").state in FINAL)


def test_a_pass_that_raises_does_not_end_the_loop(
    live: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours is told, and the next pass starts from the database again."""
    running(live, "job")
    real, broken = JobPasses.run, [True]

    def run(passes: JobPasses) -> int:
        if broken:
            broken.clear()
            raise RuntimeError("a bug")
        return real(passes)

    monkeypatch.setattr("costguard.daemon.loop.FAILED_PASS_RETRY_MS", 20)
    monkeypatch.setattr(JobPasses, "run", run)
    live.wait(lambda: live.alarms("a bug"))
    live.commands.pause({"job": "job"})
    live.wait(lambda: live.job().state in FINAL)


def test_the_watchdog_is_fed_only_while_passes_succeed(
    live: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon whose passes fail is started anew by its service manager, not kept alive."""
    beats: list[int] = []
    live.loop._alive = lambda: beats.append(1)
    running(live, "job")
    live.wait(lambda: len(beats) > 3)
    with monkeypatch.context() as patch:
        patch.setattr(JobPasses, "run", lambda _: 1 / 0)
        live.wait(lambda: live.loop._failing)
        live.loop.wake()
        before = len(beats)
        time.sleep(0.2)
        assert len(beats) <= before + 1  # one may have been under way
    live.wait(lambda: len(beats) > before + 3)


def test_a_bug_in_one_jobs_pass_does_not_touch_another(world: World) -> None:
    """The other job runs through to its end."""
    world.set_script(steps=5)
    world.submit(spec_of("bad"))
    world.until_state("training", name="bad")
    world.submit(spec_of("good"))
    world.passes_may_fail = True
    bad = world.loop.passes(1)
    assert bad is not None
    bad.context = None  # type: ignore[assignment]
    world.until_final(name="good")
    assert world.job("good").state == "finished"
    assert world.alarms("a pass failed")


def test_a_wake_up_has_the_pass_run_at_once(world: World) -> None:
    """Not at the next poll: a command is acted upon in the instant it is given."""
    world.set_script(steps=500)
    machine = world.start_training()
    world.line.is_down = True
    world.run(6)
    world.commands.pause({"job": "job"})
    world.work()
    assert world.job().pause_reason == "user"
    world.line.cut()
    world.until(lambda: machine.stop_calls_ms, within_s=8)


def test_the_exit_of_the_training_is_answered_by_a_stop_call_within_two_seconds(
    world: World,
) -> None:
    """Nothing is left to bring home: the stop call follows the message."""
    world.set_script(steps=5)
    machine = world.start_training()
    world.until_final()
    assert world.agent.exited_ms is not None
    assert machine.stop_calls_ms[0] - world.agent.exited_ms <= 2 * MS_PER_S


def test_a_released_job_is_looked_at_no_more(world: World) -> None:
    """Nothing is asked of the platform about what was given back."""
    world.set_script(steps=2)
    world.submit()
    world.until_final()
    world.commands.release({"job": "job"})
    world.until_state("released", within_s=90)
    before = len(world.cloud.calls)
    world.run(70)
    assert len(world.cloud.calls) == before
    assert world.loop.passes(1) is None


def test_a_command_for_what_was_just_released_leaves_nothing_awake(world: World) -> None:
    """Woken in the moment of its end, it has no pass: the loop must not look for it for ever."""
    world.submit()
    world.until_final()
    world.commands.release({"job": "job"})
    world.until(lambda: world.loop.passes(world.job().id) and world.job().state == "released")
    world.loop.wake()
    assert world.loop.step() > 0


def test_the_bill_is_read_and_what_differs_is_told(world: World) -> None:
    """The reconciliation chore: a bill above the books is drift, said and kept apart."""
    world.set_script(steps=3)
    world.submit()
    world.until_final()
    world.chores.reconcile()
    assert world.events("drift") == []
    world.cloud.set_price(72_000_000)
    world.cloud.machines[0].runs[0].prices = [(0, 72_000_000)]
    world.chores.reconcile()
    assert len(world.events("drift")) == 1
    assert world.instances[0].bill_micros == world.cloud.machine_micros(world.cloud.machines[0])
    world.cloud.fail("bill", times=1)
    world.chores.reconcile()


def test_chores_start_and_stop_with_the_daemon(world: World) -> None:
    """APScheduler runs them; the strays are looked for at once."""
    world.start_training()
    world.cloud.add("costguard-test-99-1")
    world.chores.start()
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not world.alarms("no job here explains"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        world.chores.stop()
