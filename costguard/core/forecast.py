"""What it will still cost to finish, as a range, and whether the caps reach that far.

In mid-run the time left is reckoned from the steps that were logged; before launch from the size
of the data and a throughput whose source is named. Time becomes yuan by the tariff itself: its
rounding, its nights and its announced changes are in it. Time is milliseconds; a step's own time
is a fraction of them, and never becomes money but through whole milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from costguard.core.cadence import middle
from costguard.core.lease import needed_micros, runway_ms
from costguard.core.schedule import Known

if TYPE_CHECKING:
    from fractions import Fraction

    from costguard.core.lease import Account, Interval, Lease
    from costguard.core.moment import Moment
    from costguard.core.schedule import Beside
    from costguard.core.snapshot import Step
    from costguard.core.tariff import Tariff

RECENT_GAPS = 60  # enough for a steady mean, few enough to follow a card that grows hot
FEWEST_GAPS = 3
PAUSE_FACTOR = 4  # a gap so many times the median is a step and something else: evaluation, save
LEAST_SPREAD = 0.03  # what no cadence is trusted beyond
UNSEEN_PAUSES = 0.1
SPREADS = 2  # standard errors on either side


@dataclass(frozen=True, slots=True)
class Span:
    """A figure with its range, in the unit that its name has: low, likely, high."""

    low: int
    likely: int
    high: int

    def plus(self, other: Span) -> Span:
        """Both one after the other, each as bad or as good as the other."""
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)


NOTHING = Span(0, 0, 0)


# --------------------------------------------------------------------------- from the steps


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it gets on. `pause_ms` is what evaluations and saves add to each step on average."""

    step_ms: float
    pause_ms: float
    spread: float  # of the step's own time, to either side, as a share
    pauses: int  # how many were seen


def pace(steps: tuple[Step, ...], began: Step | None = None) -> Pace | None:
    """The pace by the logged steps, oldest first; None before there are a few.

    A step's time is the mean over the recent gaps that are no pause: sums are made of means, and
    where samples differ in length the median lies below. What is longer than a few medians is a
    pause and is spread over all the steps that were seen. `began` is the first step of this run,
    where `steps` no longer goes back to it: what lies between was steps at this pace, and pauses.
    """
    gaps = _gaps(steps)
    if len(gaps) < FEWEST_GAPS:
        return None
    recent = gaps[-RECENT_GAPS:]
    usual = middle([took / count for took, count in recent])
    plain = [(took, count) for took, count in recent if took <= PAUSE_FACTOR * usual * count]
    step_ms = sum(took for took, _ in plain) / sum(count for _, count in plain)
    pauses = [took - step_ms * count for took, count in gaps if took > PAUSE_FACTOR * usual * count]
    paused_ms = sum(pauses)
    covered = sum(count for _, count in gaps)
    if began is not None and began.step < steps[0].step and began.at_ms <= steps[0].at_ms:
        earlier = steps[0].step - began.step
        paused_ms += max(steps[0].at_ms - began.at_ms - step_ms * earlier, 0)
        covered += earlier
    return Pace(step_ms, paused_ms / covered, _spread(plain, step_ms), len(pauses))


def _gaps(steps: tuple[Step, ...]) -> list[tuple[int, int]]:
    """Milliseconds and steps between each two log lines that follow one another."""
    return [
        (later.at_ms - earlier.at_ms, later.step - earlier.step)
        for earlier, later in pairwise(steps)
        if later.step > earlier.step and later.at_ms >= earlier.at_ms
    ]


def _spread(plain: list[tuple[int, int]], step_ms: float) -> float:
    """How far the mean may be off, as a share of it: two standard errors, and the drift seen.

    The drift is how much the later half of the gaps differs from the earlier: a card that is
    slowing down will go on for a while.
    """
    if step_ms <= 0 or len(plain) < 2:
        return 1.0
    times = [took / count for took, count in plain]
    mean = sum(times) / len(times)
    variance = sum((each - mean) ** 2 for each in times) / (len(times) - 1)
    error = math.sqrt(variance / len(times)) / step_ms
    half = len(times) // 2
    drift = abs(sum(times[half:]) / (len(times) - half) - sum(times[:half]) / half) / step_ms
    return min(SPREADS * error + drift / 2 + LEAST_SPREAD, 1.0)


def steps_time(pace: Pace, steps: int) -> Span:
    """How long so many further steps take, their part of the pauses with them.

    Pauses are rare, so the few that were seen say little of how many come: of a count, its root is
    what it may be off by. Before the first of them a tenth of the steps' time is allowed for.
    """
    rare = 1 / math.sqrt(pace.pauses) if pace.pauses else 0.0
    low = pace.step_ms * (1 - pace.spread) + pace.pause_ms * max(1 - rare, 0)
    unseen = 0 if pace.pauses else UNSEEN_PAUSES * pace.step_ms
    high = pace.step_ms * (1 + pace.spread) + pace.pause_ms * (1 + SPREADS * rare) + unseen
    return Span(
        round(low * steps), round((pace.step_ms + pace.pause_ms) * steps), round(high * steps)
    )


def beside_time(beside: Beside, step_ms: Span, save: Span) -> Span:
    """How long what comes beside the steps takes, where a step and a save take so long."""
    low, likely, high = beside.steps
    return Span(
        math.floor(low * step_ms.low) + beside.saves * save.low,
        round(likely * step_ms.likely) + beside.saves * save.likely,
        math.ceil(high * step_ms.high) + beside.saves * save.high,
    )


# --------------------------------------------------------------------------- before the launch


class Source(Enum):
    """Where a throughput comes from, and by how much it may be off: (slowest, fastest), percent.

    The shares are this project's own caution, not a measurement: another host's CPU and disk, a
    card that runs hot, another mix of sample lengths.
    """

    MEASURED_HERE = (90, 105)
    MEASURED_ELSEWHERE = (70, 120)
    CALCULATED = (40, 150)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens a second, padding not counted, and how that is known."""

    tokens_per_s: Fraction
    source: Source


@dataclass(frozen=True, slots=True)
class Work:
    """One stage before it begins."""

    samples: int
    tokens: int  # of all samples together, once
    samples_per_step: int  # batch size by accumulation by cards
    epochs: Fraction

    @property
    def steps(self) -> int:
        """Optimizer steps: an epoch's last one may be smaller than the rest."""
        per_epoch = -(-self.samples // self.samples_per_step)
        return math.ceil(per_epoch * self.epochs)


def training_time(works: tuple[Work, ...], throughput: Throughput) -> Span:
    """How long all stages train at this throughput, by what its source is good for."""
    tokens = sum(work.tokens * work.epochs for work in works)
    likely_ms = tokens * 1_000 / throughput.tokens_per_s
    slowest, fastest = throughput.source.value
    return Span(
        math.ceil(likely_ms * 100 / fastest),
        math.ceil(likely_ms),
        math.ceil(likely_ms * 100 / slowest),
    )


# --------------------------------------------------------------------------- in yuan


class Fit(Enum):
    """Whether the caps reach to the end."""

    FITS = "fits"  # even if it takes as long as it may
    TIGHT = "tight"  # likely, but not if it takes as long as it may
    SHORT = "short"  # the cap will likely bite before


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is still to come, in milliseconds and micro-yuan, and how far the caps reach."""

    time_ms: Span  # from now until it is stopped
    cost_micros: Span  # beyond what is posted
    runway_ms: int | None  # how long it may run; None: no cap bites in time
    fit: Fit
    bites_at_step: int | None  # where the cap will likely bite, while steps are counted
    evaluations: Known = Known.ENOUGH  # what the range had to allow for unseen

    def total_micros(self, spent_micros: int) -> Span:
        """Yuan to finish: with what is spent already."""
        return self.cost_micros.plus(Span(spent_micros, spent_micros, spent_micros))


@dataclass(frozen=True, slots=True)
class Course:
    """The way still to go: what comes before the steps, the steps, what comes after them."""

    before: Span  # set-up and download, in ms; nothing once it trains
    steps: Span
    after: Span  # last save, later stages, bringing the result home
    done_steps: int = 0
    left_steps: int = 0

    @property
    def time_ms(self) -> Span:
        """All of it."""
        return self.before.plus(self.steps).plus(self.after)


def forecast(
    course: Course,
    tariff: Tariff,
    interval: Interval | None,
    lease: Lease | None,
    accounts: tuple[Account, ...],
    now: Moment,
    stop_ms: Span,
    latency_ms: int,
) -> Forecast:
    """What the course costs from now on, and whether it fits.

    `stop_ms` is how long a stop takes as it was seen, for the likely cost; `latency_ms` is L, the
    worst case that has to be kept free for it, and shortens what a cap leaves.
    """
    time_ms = course.time_ms
    cost = Span(
        *(
            needed_micros(tariff, interval, now, length_ms, stopping_ms)
            for length_ms, stopping_ms in (
                (time_ms.low, stop_ms.low),
                (time_ms.likely, stop_ms.likely),
                (time_ms.high, stop_ms.high),
            )
        )
    )
    runway = runway_ms(tariff, interval, lease, accounts, now, time_ms.high, latency_ms)
    reaches_ms = 0 if runway is None else max(runway, 0)
    if reaches_ms >= time_ms.high:
        return Forecast(time_ms, cost, None, Fit.FITS, None)
    if reaches_ms >= time_ms.likely:
        return Forecast(time_ms, cost, reaches_ms, Fit.TIGHT, None)
    return Forecast(time_ms, cost, reaches_ms, Fit.SHORT, _bites_at(course, reaches_ms))


def _bites_at(course: Course, reaches_ms: int) -> int | None:
    """The last step that is likely done when the cap bites; None where it bites after the last."""
    if course.left_steps == 0 or course.steps.likely == 0:
        return None
    trained_ms = max(reaches_ms - course.before.likely, 0)
    gained = trained_ms * course.left_steps // course.steps.likely
    return course.done_steps + gained if gained < course.left_steps else None
