"""The simulator's speed, and a pass of the daemon over 1, 100 and 1,000 supervised instances."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from costguard.core.spec import InstanceWish, JobSpec, Run
from costguard.providers.base import ProviderFacts
from costguard.sim.cloud import Prices
from costguard.sim.faults import Faults
from costguard.sim.lean import LeanHost
from costguard.sim.real import RealHost
from costguard.sim.run import play_seed
from costguard.sim.scenario import DAY_MS, HOUR_MS, YUAN, Order, Scenario
from costguard.sim.script import Script
from costguard.sim.world import World
from costguard.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

SEEDS = 50
DAYS = 7.0
PASSES = 5
POLL_MS = 60_000
DAYS_PER_YEAR = 365
COUNTS = (1, 100, 1_000)
THREADS = 16  # as the daemon has


@dataclass(frozen=True)
class Passes:
    """A pass over so many instances, in seconds: medians."""

    busy_s: float  # of the processor, one thread, nothing forced to the disk
    durable_s: float | None = None  # by the clock, on the daemon's threads, each commit on the disk


class _Threads(ThreadPoolExecutor):
    """The daemon's threads, which can be waited for."""

    def __init__(self) -> None:
        super().__init__(THREADS)
        self.given: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it, and remember that."""
        self.given.append(super().submit(fn, *args, **kwargs))
        return self.given[-1]


def measure() -> None:
    """Print ticks a second and simulated years a minute of tier 1, then passes of both tiers."""
    began = time.process_time()
    results = [play_seed(seed, 1, DAYS) for seed in range(SEEDS)]
    took_s = time.process_time() - began
    ticks = sum(result.ticks for result in results)
    years = sum(result.simulated_ms for result in results) / DAY_MS / DAYS_PER_YEAR
    print(
        f"simulator, tier 1, one core: {ticks / took_s:,.0f} ticks/s,"
        f" {years * 60 / took_s:.0f} simulated years a minute ({SEEDS} seeds of {DAYS:.0f} days)"
    )
    for count in COUNTS:
        _print_pass("tier 1, the core over books in memory", count, real=False)
    for count in COUNTS:
        _print_pass("tier 2, the daemon's loop on SQLite, one thread", count, real=True)


def _print_pass(what: str, count: int, *, real: bool) -> None:
    before_mib = _resident_mib()
    took = _passes(count, real=real)
    grown_mib = _resident_mib() - before_mib
    print(
        f"a pass over {count:,} supervised instances ({what}): {took.busy_s:.3f} s of CPU,"
        f" {1_000 * took.busy_s / count:.2f} ms each, {grown_mib:.0f} MiB more"
    )
    if took.durable_s is not None:
        print(
            f"... on {THREADS} threads, each commit forced to the disk: {took.durable_s:.3f} s,"
            f" {1_000 * took.durable_s / count:.2f} ms each"
        )


def _passes(count: int, *, real: bool) -> Passes:
    """Passes over `count` running instances: each read, charged, decided."""
    world = World(0, Random(0), _scenario(count), Faults(Random(0), calm=True))
    with tempfile.TemporaryDirectory(prefix="costguard-bench-") as folder:
        database = Path(folder) / "costguard.db"
        upgrade(database)
        host = RealHost(world, database) if real else LeanHost(world)
        world.host = host
        host.boot()
        host.unwatch()
        world.unwatch()
        for order in world.scenario.orders:
            host.submit(order)
        while any(job.state != "training" for job in host.books()):
            _live(world, 30_000)
            host.work()
        took = []
        for _ in range(PASSES):
            _live(world, POLL_MS)
            began = time.process_time()
            host.work()
            took.append(time.process_time() - began)
        durable_s = _durable_s(world, host) if isinstance(host, RealHost) else None
        host.close()
    return Passes(median(took), durable_s)


def _durable_s(world: World, host: RealHost) -> float:
    """Median seconds by the clock, as the daemon runs: on its threads, and with `synchronous`."""
    store, loop = host._store, host._loop
    store.close()  # its next connection is made anew

    @event.listens_for(store._writer, "connect")
    def _forced(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=FULL")

    took = []
    with _Threads() as threads:
        loop._executor = threads
        for _ in range(PASSES):
            _live(world, POLL_MS)
            began = time.perf_counter()
            while loop.quiet_ms() == 0 or any(not one.done() for one in threads.given):
                loop.step()
                wait(threads.given)
            took.append(time.perf_counter() - began)
            threads.given.clear()
    return median(took)


def _live(world: World, ms: int) -> None:
    world.clock.advance(ms)
    world.cloud.settle()
    world.line.tick(ms)


def _scenario(count: int) -> Scenario:
    facts = ProviderFacts(
        name="sim",
        poll_interval_ms=POLL_MS,
        cache_age_ms=0,
        stop_latency_ms=30_000,
        timer_min_lead_ms=0,
        timer_lateness_ms=30_000,
        arms_timer_at_create=True,
        in_guest_stop=("power-off",),
        in_guest_stop_proven=True,
        tells_meter_end=True,
    )
    script = Script(download_ms=1_000, steps=2_000, step_ms=30_000, eval_every=3_000)
    orders = tuple(
        Order(
            0,
            JobSpec(
                name=f"job-{number}",
                project="a",
                cap_micros=1_000 * YUAN,
                best_effort=False,
                instance=InstanceWish(provider="sim"),
                runs=(Run(argv=("train",)),),
                lease_ms=HOUR_MS,
                telemetry_window_ms=POLL_MS,
            ),
            script,
        )
        for number in range(count)
    )
    return Scenario(
        facts=facts,
        prices=Prices(15 * YUAN, 1, 0),
        start_ms=10_000,
        stop_ms=5_000,
        call_ms=0,
        orders=orders,
        acts=(),
    )


def _resident_mib() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    measure()
