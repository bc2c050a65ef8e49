from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from costguard.core.forecast import Span, beside_time
from costguard.core.schedule import NONE_SEEN, Beside, Known, Seen, beside, evaluates_every, seen
from costguard.core.spec import Schedule

EVERY_20 = Schedule(evaluate_every=20)
SIZED = Schedule(evaluate_every=20, held_out=40, samples_per_step=8)
ALL_SEEN = Seen(evaluation=True, save=True)
NOTHING = (Fraction(0), Fraction(0), Fraction(0))


def steps(*shares: float) -> tuple[Fraction, ...]:
    """So many steps' time, low, likely and high."""
    return tuple(Fraction(share).limit_denominator(1_000) for share in shares)


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(save_every=50), EVERY_20])
def test_where_no_evaluation_comes_nothing_is_allowed_for(schedule: Schedule) -> None:
    """None is planned, or none before the end: a run of 20 steps ends with its twentieth."""
    assert beside(schedule, NONE_SEEN, 5, 20) == Beside(Known.ENOUGH, NOTHING)


def test_of_an_unknown_size_it_may_take_as_long_as_the_steps_between() -> None:
    """Four of a hundred steps, each at most twenty steps long; a tenth of that is the guess."""
    found = beside(EVERY_20, NONE_SEEN, 5, 100)
    assert found == Beside(Known.TIMES, (Fraction(0), Fraction(8), Fraction(80)))


def test_of_a_known_size_it_takes_a_pass_over_its_samples() -> None:
    """Forty samples are five steps' worth; judging takes a third of a step to two of them."""
    found = beside(SIZED, NONE_SEEN, 5, 100)
    assert found == Beside(Known.SIZE, (Fraction(20, 3), Fraction(20), Fraction(40)))


@pytest.mark.parametrize(("done", "count"), [(19, 4), (20, 4), (21, 3), (80, 1), (81, 0), (100, 0)])
def test_what_is_under_way_still_comes(done: int, count: int) -> None:
    """Its time lies after the line of its step, and before the next one."""
    assert beside(SIZED, NONE_SEEN, done, 100).steps[1] == 5 * count


def test_those_after_the_last_step_come_too() -> None:
    """Also of a run that judges only then, and while it does."""
    after = Schedule(evaluates_after=1, held_out=8, samples_per_step=8)
    assert beside(after, NONE_SEEN, 5, 100).steps[1] == 1
    assert beside(after, NONE_SEEN, 100, 100).steps[1] == 1
    unsized = Schedule(evaluates_after=2)
    assert beside(unsized, NONE_SEEN, 5, 100) == Beside(Known.TIMES, steps(0, 20, 200))  # type: ignore[arg-type]  # three of them


def test_epochs_cut_the_run_into_equal_parts() -> None:
    """Of two and a half, the last is half as long; half an epoch ends with the run itself."""
    assert evaluates_every(Schedule(evaluate_parts_milli=2_500), 100) == 40
    assert beside(Schedule(None, 2_500, 1, None, 8, 8), NONE_SEEN, 0, 100).steps[1] == 3
    assert beside(Schedule(evaluate_parts_milli=500), NONE_SEEN, 0, 100).known is Known.ENOUGH
    assert evaluates_every(Schedule(evaluate_parts_milli=9_000), 0) == 1


def test_one_that_was_due_between_two_lines_was_seen() -> None:
    """Not while it is under way, and not where the log began after it."""
    assert not seen(EVERY_20, 0, 1, 20, 100).evaluation
    assert seen(EVERY_20, 0, 1, 21, 100).evaluation
    assert not seen(EVERY_20, 0, 21, 40, 100).evaluation
    assert seen(EVERY_20, 0, 20, 21, 100).evaluation


def test_a_pause_of_another_kind_is_no_evaluation() -> None:
    """A reader that stuck, or a save: what was planned is still to come."""
    assert seen(EVERY_20, 3, 1, 15, 100) == NONE_SEEN


def test_what_was_seen_is_in_the_pace_and_nowhere_else() -> None:
    """From then on the forecast is as it was before there were schedules."""
    after = Schedule(20, None, 1, 10, 40, 8)
    assert beside(after, ALL_SEEN, 25, 100) == Beside(Known.ENOUGH, NOTHING)


def test_saves_are_counted_by_themselves() -> None:
    """Nine of ten: the last comes with the end, and has its own place in the course."""
    both = Schedule(evaluate_every=20, save_every=10, held_out=8, samples_per_step=8)
    assert beside(both, NONE_SEEN, 0, 100).saves == 9
    known = seen(both, 0, 1, 12, 100)
    assert known == Seen(evaluation=False, save=True)
    assert beside(both, known, 12, 100) == Beside(Known.SIZE, steps(4 / 3, 4, 8))  # type: ignore[arg-type]  # three of them


def test_of_a_command_nobody_knows_whether_it_judges() -> None:
    """It may take as long again as its steps, until a pause has shown what it does beside them."""
    assert beside(None, NONE_SEEN, 25, 100) == Beside(Known.NOTHING, steps(0, 0, 75))  # type: ignore[arg-type]  # three of them
    assert seen(None, 0, 1, 50, 100) == NONE_SEEN
    assert beside(None, seen(None, 1, 1, 50, 100), 50, 100) == Beside(Known.ENOUGH, NOTHING)
    assert beside(None, NONE_SEEN, 120, 100) == Beside(Known.ENOUGH, NOTHING)


def test_its_time_is_in_steps_and_saves() -> None:
    """The fastest step with the fewest, the slowest with the most."""
    what = Beside(Known.SIZE, (Fraction(4, 3), Fraction(2), Fraction(4)), 3)
    found = beside_time(what, Span(900, 1_000, 1_100), Span(0, 5_000, 60_000))
    assert found == Span(1_200, 17_000, 184_400)


def test_a_total_that_makes_no_sense_allows_for_nothing() -> None:
    """It comes from a rented machine."""
    after = Schedule(evaluates_after=1)
    assert beside(after, NONE_SEEN, 0, -3) == Beside(Known.TIMES, NOTHING)


SCHEDULES = st.builds(
    Schedule,
    evaluate_every=st.none() | st.integers(1, 200),
    evaluate_parts_milli=st.none() | st.integers(1, 9_999),
    evaluates_after=st.integers(0, 2),
    save_every=st.none() | st.integers(1, 200),
    held_out=st.none() | st.integers(1, 500),
    samples_per_step=st.integers(1, 64),
)


@given(st.none() | SCHEDULES, st.integers(-3, 400), st.integers(0, 400), st.integers(-3, 300))
def test_whatever_is_planned_the_range_is_in_order_and_shrinks(
    schedule: Schedule | None, seen_from: int, done: int, total: int
) -> None:
    """The steps come from a rented machine, and may be any."""
    known = seen(schedule, 0, seen_from, done, total)
    found = beside(schedule, known, done, total)
    assert 0 <= found.steps[0] <= found.steps[1] <= found.steps[2]
    assert found.saves >= 0
    later = beside(schedule, known, done + 1, total)
    assert later.steps[2] <= found.steps[2]
    assert later.saves <= found.saves
