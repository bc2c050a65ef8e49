from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from statistics import median

import pytest
from hypothesis import given, strategies as st

from costguard.core.calendar import Window
from costguard.core.forecast import (
    NOTHING,
    Course,
    Fit,
    Forecast,
    Pace,
    Source,
    Span,
    Throughput,
    Work,
    forecast,
    pace,
    steps_time,
    training_time,
)
from costguard.core.lease import Account, Interval, Lease
from costguard.core.moment import Moment
from costguard.core.snapshot import Step
from costguard.core.tariff import Discount, Tariff
from tests.bench.cadences import training
from tests.bench.forecast_error import TARIFFS, bite_miss, misses
from tests.core.tariffs import HOUR_MS, MIDNIGHT_MS

YUAN = 1_000_000
SECOND = Tariff(3_600 * YUAN)  # 1 yuan a second
NOW = Moment(MIDNIGHT_MS, 0, "boot")


def logged(*times_ms: int, every: int = 1) -> tuple[Step, ...]:
    """Log lines at these times."""
    return tuple(Step((n + 1) * every, ms, 1.0) for n, ms in enumerate(times_ms))


def even(count: int, step_ms: int = 1_000) -> tuple[Step, ...]:
    """Log lines at an even pace."""
    return logged(*range(step_ms, step_ms * (count + 1), step_ms))


def scope(left_yuan: int | None, pending_yuan: int = 0) -> tuple[Account, ...]:
    """A job with so much left, or without a cap."""
    cap = None if left_yuan is None else (left_yuan + pending_yuan) * YUAN
    return (Account("job x", cap, 0, pending_yuan * YUAN, 0),)


def exactly(ms: int) -> Span:
    """A span without a range."""
    return Span(ms, ms, ms)


# --------------------------------------------------------------------------- pace


def test_an_even_pace_is_its_own_mean() -> None:
    """With the least spread, and no pauses."""
    found = pace(even(50))
    assert found is not None
    assert (found.step_ms, found.pause_ms, found.pauses) == (1_000, 0, 0)
    assert found.spread == pytest.approx(0.03)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_few_lines_are_no_pace(count: int) -> None:
    """Three gaps at least."""
    assert pace(even(count)) is None
    assert pace(even(4)) is not None


def test_lines_of_ten_steps_count_ten() -> None:
    """The pace is that of a step, however rarely it logs."""
    found = pace(logged(10_000, 20_000, 30_000, 40_000, every=10))
    assert found is not None
    assert found.step_ms == 1_000


def test_lines_that_repeat_or_run_backwards_are_no_gaps() -> None:
    """A run resumed from a checkpoint goes back; its agent's clock may start anew."""
    steps = (*even(5), Step(3, 9_000, 1.0), Step(4, 10_000, 1.0), Step(5, 500, 1.0))
    found = pace((*steps, Step(6, 1_500, 1.0)))
    assert found is not None
    assert found.step_ms == 1_000


def test_an_evaluation_is_a_pause_and_not_the_pace() -> None:
    """What it takes beyond a step is spread over all the steps that were seen."""
    times = [1_000 * n + (60_000 if n > 20 else 0) for n in range(1, 42)]
    found = pace(logged(*times))
    assert found is not None
    assert (found.step_ms, found.pause_ms, found.pauses) == (1_000, 60_000 / 40, 1)
    assert found.spread == pytest.approx(0.03)


def test_a_gap_of_just_the_factor_is_still_a_step() -> None:
    """Four medians; beyond it is a pause."""
    usual = [1_000 * n for n in range(1, 11)]
    slow, paused = pace(logged(*usual, 14_000)), pace(logged(*usual, 14_001))
    assert slow is not None
    assert paused is not None
    assert (slow.pauses, slow.step_ms) == (0, 13_000 / 10)
    assert (paused.pauses, paused.step_ms) == (1, 1_000)


def test_only_the_recent_steps_set_the_pace() -> None:
    """A slow start is over, and the pace is what it is now."""
    times = [5_000 * n for n in range(1, 11)]
    times += [times[-1] + 1_000 * n for n in range(1, 61)]
    found = pace(logged(*times))
    assert found is not None
    assert found.step_ms == 1_000
    assert found.pause_ms == pytest.approx(9 * 4_000 / 69)  # what came before is told apart


def test_what_is_no_longer_kept_is_known_by_its_first_step() -> None:
    """Steps at this pace, and the rest pauses; a first step that makes no sense is passed over."""
    kept = tuple(Step(step.step + 100, step.at_ms + 149_000, 1.0) for step in even(41))
    found = pace(kept, Step(1, 0, 1.0))
    assert found is not None
    assert found.pause_ms == pytest.approx(50_000 / 140)
    assert pace(kept, Step(101, 0, 1.0)) == pace(kept, Step(1, 10**9, 1.0)) == pace(kept)
    quick = pace(kept, Step(1, 150_000, 1.0))
    assert quick is not None
    assert quick.pause_ms == 0


def test_a_pace_that_swings_or_drifts_is_trusted_less() -> None:
    """Two standard errors, and half of how much the later half differs from the earlier."""
    swing, drift = [0], [0]
    for n in range(60):
        swing.append(swing[-1] + (500 if n % 2 else 1_500))
        drift.append(drift[-1] + (1_000 if n < 30 else 1_200))
    swinging, drifting = pace(logged(*swing)), pace(logged(*drift))
    assert swinging is not None
    assert drifting is not None
    assert swinging.spread == pytest.approx(0.03 + 2 * 0.5 / 60**0.5, rel=0.02)
    assert drifting.spread == pytest.approx(0.03 + 2 * 0.0915 / 60**0.5 + 0.1 / 1.1, rel=0.02)


def test_steps_that_take_no_time_are_trusted_in_nothing() -> None:
    """A clock that stands still is no pace."""
    found = pace(logged(5, 5, 5, 5, 5))
    assert found == Pace(0, 0, 1.0, 0)
    assert steps_time(found, 10) == NOTHING


def test_time_for_steps_has_its_pauses_and_their_range() -> None:
    """Of a few pauses little is known; of none a tenth of the time is allowed for."""
    assert steps_time(Pace(1_000, 0, 0.1, 0), 100) == Span(90_000, 100_000, 120_000)
    assert steps_time(Pace(1_000, 100, 0.1, 1), 100) == Span(90_000, 110_000, 140_000)
    assert steps_time(Pace(1_000, 100, 0.1, 4), 100) == Span(95_000, 110_000, 130_000)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-1_000, 10**7)), max_size=80),
    st.integers(0, 10_000),
)
def test_whatever_was_logged_the_range_is_in_order(moves: list[tuple[int, int]], left: int) -> None:
    """The journal comes from a rented machine."""
    steps, at_ms, steps_done = [], 0, 0
    for count, took_ms in moves:
        steps_done, at_ms = steps_done + count, at_ms + took_ms
        steps.append(Step(steps_done, at_ms, None))
    found = pace(tuple(steps), Step(0, 0, None))
    if found is not None:
        time = steps_time(found, left)
        assert 0 <= time.low <= time.likely <= time.high


# --------------------------------------------------------------------------- before the launch


def test_the_articles_500_steps_take_under_an_hour() -> None:
    """1000 samples, eight a step, four epochs are 500 steps; at 6 s each 50 minutes."""
    work = Work(samples=1_000, tokens=300_000, samples_per_step=8, epochs=Fraction(4))
    assert work.steps == 500
    tokens_a_second = Fraction(300_000 * 4, 500 * 6)
    time = training_time((work,), Throughput(tokens_a_second, Source.MEASURED_HERE))
    assert time.likely == 50 * 60_000


def test_an_epochs_last_step_may_be_smaller_and_epochs_may_be_broken() -> None:
    """Nine samples of four are three steps, two and a half epochs of them eight."""
    assert Work(9, 0, 4, Fraction(5, 2)).steps == 8
    assert Work(8, 0, 4, Fraction(1)).steps == 2


def test_the_range_is_as_wide_as_the_source_is_poor() -> None:
    """Measured here, measured elsewhere, calculated; stages add up."""
    works = (Work(10, 500, 1, Fraction(1)), Work(10, 500, 1, Fraction(1)))
    spans = [training_time(works, Throughput(Fraction(10), source)) for source in Source]
    assert [span.likely for span in spans] == [100_000] * 3
    assert spans[0].high < spans[1].high < spans[2].high == 250_000
    assert spans[0].low > spans[1].low > spans[2].low == 66_667


# --------------------------------------------------------------------------- in yuan


def told(course: Course, left_yuan: int | None, **given: object) -> Forecast:
    """A forecast at a yuan a second, L being 20 s and a stop taking 5."""
    arguments = {
        "tariff": SECOND,
        "interval": None,
        "lease": None,
        "accounts": scope(left_yuan),
        "now": NOW,
        "stop_ms": exactly(5_000),
        "latency_ms": 20_000,
        **given,
    }
    return forecast(course, **arguments)  # type: ignore[arg-type]  # as above


COURSE = Course(
    before=exactly(10_000),
    steps=Span(80_000, 100_000, 150_000),
    after=exactly(20_000),
    done_steps=7,
    left_steps=50,
)


def test_the_cost_is_the_tariffs_price_of_the_time_and_a_stop() -> None:
    """In all three readings."""
    found = told(COURSE, None)
    assert found.time_ms == Span(110_000, 130_000, 180_000)
    assert found.cost_micros == Span(115 * YUAN, 135 * YUAN, 185 * YUAN)
    assert found.total_micros(5 * YUAN) == Span(120 * YUAN, 140 * YUAN, 190 * YUAN)
    assert (found.fit, found.runway_ms, found.bites_at_step) == (Fit.FITS, None, None)


@pytest.mark.parametrize(
    ("left", "fit", "runway_ms", "step"),
    [
        (200, Fit.FITS, None, None),
        (199, Fit.TIGHT, 179_000, None),
        (150, Fit.TIGHT, 130_000, None),
        (149, Fit.SHORT, 129_000, None),
        (129, Fit.SHORT, 109_000, 7 + 49),
        (80, Fit.SHORT, 60_000, 7 + 25),
        (30, Fit.SHORT, 10_000, 7),
        (0, Fit.SHORT, 0, 7),
        (-1, Fit.SHORT, 0, 7),
    ],
)
def test_a_cap_that_bites_is_named_with_its_step(
    left: int, fit: Fit, runway_ms: int | None, step: int | None
) -> None:
    """L is kept free for the stop; what bites after the last step has no step."""
    found = told(COURSE, left)
    assert (found.fit, found.runway_ms, found.bites_at_step) == (fit, runway_ms, step)


def test_without_steps_left_there_is_no_step_to_name() -> None:
    """It is saving, or its time was given in whole."""
    for course in (replace(COURSE, left_steps=0), replace(COURSE, steps=NOTHING)):
        assert told(course, 0).bites_at_step is None


def test_what_the_open_lease_holds_is_there_to_be_used() -> None:
    """Pending is not lost."""
    held = Lease(1, 1, NOW, NOW.plus_ms(60_000), 100 * YUAN, 0, final=False)
    found = told(COURSE, 0, accounts=scope(100, 100), lease=held)
    assert found.fit is Fit.FITS


def test_an_hour_that_is_paid_costs_nothing_more() -> None:
    """And one that begins costs a whole one."""
    hourly = Tariff(15 * YUAN, 3_600)
    interval = Interval(1, NOW.utc_ms - 2_000_000, 15 * YUAN)
    course = Course(NOTHING, Span(1_000_000, 1_500_000, 2_000_000), NOTHING)
    found = told(course, 15, tariff=hourly, interval=interval)
    assert found.cost_micros == Span(0, 0, 15 * YUAN)
    assert found.fit is Fit.FITS
    short = told(course, 14, tariff=hourly, interval=interval)
    assert (short.fit, short.runway_ms) == (Fit.TIGHT, 1_580_000)


def test_the_end_of_the_night_is_in_the_forecast() -> None:
    """Seven hours at half price, and the eighth at the whole."""
    nightly = Tariff(20 * YUAN, discounts=(Discount(500, Window(23 * 3_600, 7 * 3_600)),))
    course = Course(NOTHING, exactly(8 * HOUR_MS), NOTHING)
    found = told(course, None, tariff=nightly, stop_ms=NOTHING)
    assert found.cost_micros.likely == 7 * 10 * YUAN + 20 * YUAN


# --------------------------------------------------------------------------- how good it is


def test_over_made_up_runs_it_is_as_good_as_is_said_of_it() -> None:
    """Sixty seeds of the benchmark: the later, the closer, and mostly within the named range."""
    medians = []
    for percent in (10, 25, 50):
        found = misses(TARIFFS["per second"], percent, 60)
        medians.append(median(each.error for each in found))
        assert sum(each.within for each in found) >= 0.85 * len(found)
    assert medians[0] < 0.10
    assert medians[0] > medians[1] > medians[2]
    assert medians[2] < 0.03


def test_over_made_up_runs_a_cap_that_will_not_do_is_told_early() -> None:
    """At a quarter of the run, of a fifth that is missing; and none is told of a fifth too much."""
    short = [bite_miss(training(seed), 25, 80) for seed in range(60)]
    ample = [bite_miss(training(seed), 25, 125) for seed in range(60)]
    assert sum(each is not None and each[0] is Fit.SHORT for each in short) >= 55
    assert not [each for each in ample if each is not None and each[0] is Fit.SHORT]
    off = [each[1] for each in short if each is not None and each[1] is not None]
    assert median(off) < 0.03
