"""How good the forecast is: its error at a tenth, a quarter and half of a run, over many runs."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from statistics import median, quantiles

from costguard.core.forecast import (
    NOTHING,
    Course,
    Fit,
    Forecast,
    Span,
    forecast,
    pace,
    steps_time,
)
from costguard.core.lease import Account, Interval
from costguard.core.moment import Moment
from costguard.core.tariff import Tariff, longest_ms, running_micros
from tests.bench.cadences import Training, training

YUAN = 1_000_000
SHARES = (10, 25, 50)
START_MS = 1_795_536_000_000  # midnight in Shanghai
TARIFFS = {"per second": Tariff(15 * YUAN), "per hour": Tariff(15 * YUAN, 3_600)}
STOP_MS = 5_000


@dataclass(frozen=True)
class Miss:
    """One forecast against what came."""

    error: float  # of the yuan still to come, as a share of them
    total_error: float  # of the yuan in all
    within: bool  # whether what came lies in the range that was named


def told(run: Training, tariff: Tariff, percent: int, cap_micros: int | None) -> Forecast | None:
    """The forecast at so many percent of a run's steps; None where too little was logged."""
    step = run.total * percent // 100
    found = pace(run.logged(step), run.first())
    if found is None:
        return None
    now_ms = START_MS + run.done_ms[step - 1]
    now = Moment(now_ms, run.done_ms[step - 1], "boot")
    posted = running_micros(tariff, START_MS, now_ms)
    left = run.total - step
    save = Span(run.after_ms, run.after_ms, run.after_ms)
    course = Course(NOTHING, steps_time(found, left), save, step, left)
    scope = Account("job", cap_micros, posted, 0, 0)
    interval = Interval(1, START_MS, posted)
    stop = Span(STOP_MS, STOP_MS, STOP_MS)
    return forecast(course, tariff, interval, None, (scope,), now, stop, STOP_MS)


def miss(run: Training, tariff: Tariff, percent: int) -> Miss | None:
    """How far the forecast was off."""
    found = told(run, tariff, percent, None)
    if found is None:
        return None
    so_far_ms = run.done_ms[run.total * percent // 100 - 1]
    total = running_micros(tariff, START_MS, START_MS + run.end_ms + STOP_MS)
    came = total - running_micros(tariff, START_MS, START_MS + so_far_ms)
    cost = found.cost_micros
    off = abs(cost.likely - came)
    return Miss(off / came if came else 0.0, off / total, cost.low <= came <= cost.high)


def bite_miss(run: Training, percent: int, cap_percent: int) -> tuple[Fit, float | None] | None:
    """What is said of a cap of so much of what it will cost, and how far the step is off."""
    tariff = TARIFFS["per second"]
    total = running_micros(tariff, START_MS, START_MS + run.end_ms + STOP_MS)
    cap = total * cap_percent // 100
    found = told(run, tariff, percent, cap)
    if found is None:
        return None
    if found.bites_at_step is None:
        return found.fit, None
    ends_ms = longest_ms(tariff, START_MS, cap, run.end_ms) - STOP_MS
    bites = bisect_right(run.done_ms, ends_ms)
    return found.fit, abs(found.bites_at_step - bites) / run.total


def misses(tariff: Tariff, percent: int, runs: int) -> list[Miss]:
    """Over the first so many seeds."""
    found = (miss(training(seed), tariff, percent) for seed in range(runs))
    return [each for each in found if each is not None]


def measure(runs: int = 500) -> None:
    """Print median and 90th percentile, and how often what came was in the range."""
    _print_errors(runs)
    _print_bites(runs)


def _print_bites(runs: int) -> None:
    for percent in SHARES:
        for cap_percent in (80, 90, 110, 125):
            answers = (bite_miss(training(seed), percent, cap_percent) for seed in range(runs))
            found = [each for each in answers if each is not None]
            said = {fit: sum(each[0] is fit for each in found) / len(found) for fit in Fit}
            steps = [off for _, off in found if off is not None]
            text = ", ".join(f"{fit.value} {share:.0%}" for fit, share in said.items())
            bites = f"; its step off by {median(steps):.1%} of all steps" if steps else ""
            print(
                f"forecast at {percent} %, cap of {cap_percent} % of what it comes to: "
                f"{text}{bites}"
            )


def _print_errors(runs: int) -> None:
    for name, tariff in TARIFFS.items():
        for percent in SHARES:
            found = misses(tariff, percent, runs)
            errors = [each.error for each in found]
            totals = [each.total_error for each in found]
            inside = sum(each.within for each in found) / len(found)
            print(
                f"forecast {name}, at {percent} % of {len(found)} made-up runs: yuan still to come "
                f"off by {median(errors):.1%} (90 % of runs: {quantiles(errors, n=10)[-1]:.1%}), "
                f"yuan in all by {median(totals):.1%} ({quantiles(totals, n=10)[-1]:.1%}); "
                f"in the named range {inside:.0%}"
            )
