from __future__ import annotations

from costguard.core.moment import Moment, elapsed_ms, has_passed, ms_until

START = Moment(1_000_000, 500, "boot")


def test_elapsed_is_what_the_faster_clock_says() -> None:
    """A wall clock set back an hour does not shorten what is charged."""
    assert elapsed_ms(START, Moment(1_000_000 - 3_600_000, 60_500, "boot")) == 60_000
    assert elapsed_ms(START, Moment(1_090_000, 60_500, "boot")) == 90_000


def test_clocks_of_two_boots_are_not_compared() -> None:
    """After a reboot only the wall clock is left."""
    assert elapsed_ms(START, Moment(1_005_000, 9_999_999, "later")) == 5_000


def test_time_never_runs_backwards() -> None:
    """Both clocks back is no time at all."""
    assert elapsed_ms(START, Moment(1, 1, "boot")) == 0


def test_a_deadline_has_passed_when_either_clock_says_so() -> None:
    """For money the stricter reading counts."""
    deadline = START.plus_ms(1_000)
    assert not has_passed(deadline, START)
    assert has_passed(deadline, Moment(1_001_000, 500, "boot"))
    assert has_passed(deadline, Moment(0, 1_500, "boot"))
    assert ms_until(deadline, Moment(1_000_000, 1_400, "boot")) == 100
    assert ms_until(deadline, Moment(9_000_000, 0, "boot")) == 0


def test_after_a_reboot_a_deadline_counts_by_the_wall_clock() -> None:
    """The boot clock of another boot says nothing."""
    deadline = START.plus_ms(1_000)
    assert ms_until(deadline, Moment(1_000_400, 10**9, "next")) == 600
    assert not has_passed(deadline, Moment(1_000_400, 10**9, "next"))
