"""Play seeds, in one process or several, and say what was found."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

from costguard.core.money import yuan_text
from costguard.sim.census import contents
from costguard.sim.faults import BEYOND, PER_CALL, PER_HOUR, Faults
from costguard.sim.findings import Figures, Violation
from costguard.sim.lean import LeanHost
from costguard.sim.probe import cap_used_percents
from costguard.sim.real import RealHost
from costguard.sim.scenario import DAY_MS, draw
from costguard.sim.wider import widen
from costguard.sim.world import World
from costguard.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SCHEMA = "costguard.simulate/1"
KINDS = (*PER_CALL, *PER_HOUR, *BEYOND)
REAL = 2  # the tier with the real daemon
EDITION = 2  # of what is drawn


@dataclass
class Result:
    """What one seed came to."""

    seed: int
    ticks: int
    simulated_ms: int
    trace: str
    mood: str
    faults: Counter[str] = field(default_factory=Counter)
    rated: frozenset[str] = frozenset()  # the troubles that this seed has a rate of
    contents: frozenset[str] = frozenset()
    calls: Counter[str] = field(default_factory=Counter)  # to the platform, by route
    violations: list[Violation] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)


def draw_world(
    seed: int,
    tier: int,
    days: float,
    focus: Mapping[str, float] | None = None,
    edition: int = EDITION,
) -> World:
    """One seed's world before anything happens in it, still without a daemon.

    An earlier `edition` draws what was drawn then: a seed kept for what it once found stays itself.
    """
    rng = Random(f"costguard {tier} {seed}")
    faults = Faults(rng, focus=focus)
    calm = faults.mood == "calm"
    length_ms = int(days * DAY_MS)
    poll_s = rng.choice((30, 60, 60, 120))
    jobs = rng.choice((1, 1, 1, 2)) if tier == REAL else rng.choice((1, 2, 3))
    scenario = draw(rng, length_ms, jobs, poll_s, calm=calm, brief=tier == REAL)
    if edition > 1:
        also = Random(f"costguard {tier} {seed} edition 2")
        scenario = widen(scenario, also, calm=calm, brief=tier == REAL)
    return World(seed, rng, scenario, faults)


def play_seed(
    seed: int,
    tier: int,
    days: float,
    focus: Mapping[str, float] | None = None,
    edition: int = EDITION,
) -> Result:
    """One seed, from its draw to the verdict; the same seed always comes to the same.

    `focus` sets the rates of some troubles, whatever the seed has drawn for them.
    """
    world = draw_world(seed, tier, days, focus, edition)
    if tier == REAL:
        _play_real(world)
    else:
        world.host = LeanHost(world)
        world.play()
    return Result(
        seed,
        world.ticks,
        world.clock.true_ms - world.began_ms,
        world.trace_hash,
        world.faults.mood,
        world.faults.counts,
        frozenset(world.faults.rates),
        contents(world.scenario),
        world.calls,
        world.judge.violations,
        world.judge.figures,
    )


def _play_real(world: World) -> None:
    with tempfile.TemporaryDirectory(prefix="costguard-sim-") as folder:
        database = Path(folder) / "costguard.db"
        shutil.copy(_template(), database)
        host = RealHost(world, database)
        world.host = host
        try:
            world.play()
        finally:
            host.close()


@lru_cache(maxsize=1)
def _template() -> Path:
    """An empty database of the newest schema, made once, and taken away when the process ends."""
    folder = tempfile.mkdtemp(prefix="costguard-schema-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "costguard.db"
    upgrade(path)
    return path


def play_seeds(
    seeds: Iterable[int], tier: int, days: float, processes: int = 1
) -> Iterator[Result]:
    """Every seed's result, in order, by as many processes as wanted."""
    if processes <= 1:
        for seed in seeds:
            yield play_seed(seed, tier, days)
        return
    if tier == REAL:
        _template()  # the children share it
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_play, [(seed, tier, days) for seed in seeds], chunksize=1)


def _play(work: tuple[int, int, float]) -> Result:
    return play_seed(*work)


@dataclass
class Summary:
    """What many seeds came to."""

    tier: int
    first_seed: int
    days: float
    seeds: int = 0
    ticks: int = 0
    simulated_ms: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    rated: Counter[str] = field(default_factory=Counter)  # in how many seeds, as those below
    came: Counter[str] = field(default_factory=Counter)
    moods: Counter[str] = field(default_factory=Counter)
    contents: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)

    def add(self, result: Result) -> None:
        """Take one seed in."""
        self.seeds += 1
        self.ticks += result.ticks
        self.simulated_ms += result.simulated_ms
        self.faults.update(result.faults)
        self.rated.update(result.rated)
        self.came.update(result.faults.keys())
        self.moods[result.mood] += 1
        self.contents.update(result.contents)
        self.calls.update(result.calls)
        self.violations += result.violations
        self.figures.add(result.figures)

    def document(self) -> dict[str, Any]:
        """The JSON document of `costguard simulate --json`."""
        figures = self.figures
        return {
            "schema": SCHEMA,
            "seeds": self.seeds,
            "first_seed": self.first_seed,
            "tier": self.tier,
            "simulated_days": f"{self.simulated_ms / DAY_MS:.2f}",
            "ticks": self.ticks,
            "faults_injected": sum(self.faults.values()),
            "faults_by_kind": dict(sorted(self.faults.items())),
            "seeds_by_fault": {
                kind: {"drawn": self.rated[kind], "came": self.came[kind]}
                for kind in sorted({*KINDS, *self.came})
            },
            "seeds_by_mood": dict(sorted(self.moods.items())),
            "seeds_by_content": dict(sorted(self.contents.items())),
            "calls_by_route": dict(sorted(self.calls.items())),
            "violations": [asdict(violation) for violation in self.violations],
            "overspend_yuan_max": yuan_text(figures.overspend_micros_max),
            "overrun_unenforceable_yuan_max": yuan_text(figures.excused_micros_max),
            "overcharged_yuan_max": yuan_text(figures.overcharged_micros_max),
            "orphans": figures.orphans,
            "false_stops": figures.false_stops,
            "false_stops_beyond_contract": figures.false_stops_beyond,
            "wrong_pauses": figures.wrong_pauses,
            "grants": figures.grants,
            "stops_proven": figures.stops,
            "cap_used_percent_median": median(cap_used_percents(quantum_s=1)),
            "cap_used_percent_median_hourly": median(cap_used_percents(quantum_s=3_600)),
        }
