"""How good the forecast is over the simulator's runs, by the simulated platform's own meter.

Every job of every seed is looked at as its daemon knows it, when a tenth, a quarter and half of
its steps are done: with all that ails that world (lost lines, sleep, other prices, wrong clocks).
What the daemon's own forecast says then is compared with what the platform's meter showed in the
end.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING

from costguard.core.forecast import Fit, pace
from costguard.core.outlook import outlook
from costguard.core.schedule import Known
from costguard.sim.lean import LeanHost
from costguard.sim.run import draw_world

if TYPE_CHECKING:
    from collections.abc import Iterable

    from costguard.core.forecast import Forecast
    from costguard.core.moment import Moment
    from costguard.sim.cloud import Run
    from costguard.sim.lean import LeanJob

SEEDS = 400
DAYS = 3.0
HOUR_S = 3_600
SHARES = (10, 25, 50)
LATE = 10  # percent of the steps: what is first seen later was not seen at this share


@dataclass(frozen=True)
class Look:
    """What was forecast at one share of a run's steps; None where too little was known."""

    found: Forecast | None
    posted_micros: int  # for this power interval, when it was forecast
    pauses: int  # evaluations that its cadence had shown by then


@dataclass
class Watched:
    """One training from its first look on, and the platform's power interval that it ran in."""

    run: Run
    quantum_s: int
    looks: dict[int, Look] = field(default_factory=dict)
    missed: set[int] = field(default_factory=set)  # nobody could look at that time


@dataclass(frozen=True)
class Miss:
    """One forecast against what the platform's meter came to."""

    error: float  # of the yuan still to come, as a share of them
    total_error: float  # of the yuan in all
    within: bool  # whether what came lies in the range that was named
    width: float  # of that range, as a share of what came: a wide one is easily right


@dataclass
class Tally:
    """Everything that was forecast over many seeds."""

    finished: list[tuple[str, Watched]] = field(default_factory=list)  # with the world's mood
    budget: list[Watched] = field(default_factory=list)  # ended because the cap was reached
    reasons: Counter[str] = field(default_factory=Counter)
    traces: list[str] = field(default_factory=list)  # of each world, as `play_seed` has them


class WatchedHost(LeanHost):
    """The daemon of tier 1, looked at after each of its rounds. It notices nothing of it."""

    watched: dict[int, Watched]

    def work(self) -> None:
        """As ever; then see how far each training has come."""
        super().work()
        now = self.world.clock.now()
        for number, job in self.jobs.items():
            if job.memory.training.is_alive and job.memory.training.steps:
                self._look(number, job, now)

    def _look(self, number: int, job: LeanJob, now: Moment) -> None:
        assert job.provider_id is not None
        facts, machine = job.memory.training, self.world.cloud.by_id[job.provider_id]
        if not facts.total_steps or not machine.runs or job.interval is None:
            return
        watched = self.watched.get(number)
        if watched is None or watched.run is not machine.runs[-1]:
            watched = Watched(machine.runs[-1], machine.prices.quantum_s)
            self.watched[number] = watched
        percent = 100 * facts.steps[-1].step / facts.total_steps
        for share in SHARES:
            if share in watched.looks or share in watched.missed or percent < share:
                continue
            if percent >= share + LATE:
                watched.missed.add(share)
                continue
            snap = self.snapshot(job, now)
            assert snap.instance is not None
            assert snap.instance.interval is not None
            posted = snap.instance.interval.posted_micros
            told = pace(facts.steps, facts.began)
            pauses = 0 if told is None else told.pauses
            watched.looks[share] = Look(outlook(snap, now), posted, pauses)


def play(seeds: Iterable[int], days: float = DAYS) -> Tally:
    """Play the seeds, with the forecasts made on the way."""
    tally = Tally()
    for seed in seeds:
        world = draw_world(seed, 1, days, edition=1)  # as in the evidence
        host = WatchedHost(world)
        host.watched = {}
        world.host = host
        world.play()
        tally.traces.append(world.trace_hash)
        for number, watched in host.watched.items():
            reason = host.jobs[number].reason or "none"
            tally.reasons[reason] += 1
            if watched.run.ended_ms is not None and reason == "finished":
                tally.finished.append((world.faults.mood, watched))
            elif reason == "budget":
                tally.budget.append(watched)
    return tally


def miss(watched: Watched, share: int) -> Miss | None:
    """How far the forecast at this share was off; None where there was none."""
    look, ended_ms = watched.looks.get(share), watched.run.ended_ms
    if look is None or look.found is None or ended_ms is None:
        return None
    total = watched.run.micros(ended_ms, watched.quantum_s)
    came, cost = total - look.posted_micros, look.found.cost_micros
    off = abs(cost.likely - came)
    error = off / abs(came) if came else float(off > 0)
    width = (cost.high - cost.low) / abs(came) if came else float(cost.high > cost.low)
    return Miss(error, off / total, cost.low <= came <= cost.high, width)


def measure(seeds: int = SEEDS, days: float = DAYS) -> None:
    """Print median and 90th percentile of the errors, and how often the truth was in the range."""
    tally = play(range(seeds), days)
    ended = ", ".join(f"{reason} {count}" for reason, count in tally.reasons.most_common())
    print(f"forecast over the simulator's runs: {seeds} seeds of {days:g} days; ended: {ended}")
    every = [watched for _, watched in tally.finished]
    groups = {
        "all worlds": every,
        "worlds without faults": [w for mood, w in tally.finished if mood == "calm"],
        "per second or minute": [w for w in every if w.quantum_s < HOUR_S],
        "per hour": [w for w in every if w.quantum_s == HOUR_S],
    }
    for name, group in groups.items():
        for share in SHARES:
            _print_errors(name, group, share)
    for share in SHARES:
        told: dict[str, list[Watched]] = {"seen": [], "to come": [], "none comes": []}
        for watched in every:
            look = watched.looks.get(share)
            if look is not None and look.found is not None:
                told[_evaluations(look, look.found)].append(watched)
        for kind, group in told.items():
            _print_errors(f"first evaluation {kind}", group, share)
    for share in SHARES:
        _print_fits(tally, share)


def _evaluations(look: Look, found: Forecast) -> str:
    if found.evaluations is not Known.ENOUGH:
        return "to come"
    return "seen" if look.pauses else "none comes"


def _print_errors(name: str, group: list[Watched], share: int) -> None:
    found = [each for each in (miss(watched, share) for watched in group) if each is not None]
    if len(found) < 2:
        print(f"forecast, {name}, at {share} %: {len(found)} of {len(group)} runs, too few")
        return
    errors, totals = [each.error for each in found], [each.total_error for each in found]
    inside = sum(each.within for each in found) / len(found)
    print(
        f"forecast, {name}, at {share} % of the steps of {len(found)} finished runs of"
        f" {len(group)}: yuan still to come off by {median(errors):.1%}"
        f" (90 % of runs: {quantiles(errors, n=10)[-1]:.1%}), yuan in all by {median(totals):.1%}"
        f" ({quantiles(totals, n=10)[-1]:.1%}); in the named range {inside:.0%}, which is"
        f" {median(each.width for each in found):.0%} of what came"
    )


def _print_fits(tally: Tally, share: int) -> None:
    """Whether "will not fit" was said of those that the cap ended, and of no others."""
    finished = [watched for _, watched in tally.finished]
    said = [
        [look.found.fit for w in group if (look := w.looks.get(share)) is not None and look.found]
        for group in (tally.budget, finished)
    ]
    parts = [
        f"{sum(fit is Fit.SHORT for fit in fits)} of {len(fits)} {what}"
        for fits, what in zip(said, ("that the cap ended", "that finished"), strict=True)
    ]
    print(f"'will not fit' at {share} % of the steps: said of {' and of '.join(parts)}")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if sys.argv[1:] else SEEDS)
