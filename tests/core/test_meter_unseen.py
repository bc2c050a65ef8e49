"""What the meter assumes where nobody looked, and where that ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from costguard.core.meter import (
    CLOCKS_AGREE_MS,
    MeterStep,
    anchored,
    ended_before_ms,
    is_of_before,
    step,
    tells_nothing_new,
    told_with,
)
from costguard.core.moment import Moment
from costguard.core.power import Power, PowerRead
from tests.core.meters import OPEN, at, off, on

TOLD = replace(OPEN, seen_told_ms=5_000, seen_boot_id="boot")


def test_what_may_have_run_where_nobody_looked_is_charged() -> None:
    """The platform tells no times: from the call that started it to the read that shows it off."""
    found = step(None, off(9_000), at(9_000), 1_000, 1, may_have_run=True)
    assert found == MeterStep(1_000, 1_000, close_at_ms=9_000, assumed_from_ms=1_000)
    set_back = step(None, off(500), at(500), 1_000, 1, may_have_run=True)
    assert set_back == MeterStep(1_000, 1_000, close_at_ms=1_000, assumed_from_ms=1_000)


def test_what_nobody_saw_ended_when_its_timer_was_to_end_it() -> None:
    """Else it would be on still: hours of looking away are not charged."""
    found = step(None, off(9_000), at(9_000), 1_000, 1, may_have_run=True, ends_by_ms=6_000)
    assert (found.open_at_ms, found.close_at_ms, found.assumed_from_ms) == (1_000, 6_000, 1_000)
    over = step(None, off(9_000), at(9_000), 7_000, 1, may_have_run=True, ends_by_ms=6_000)
    assert (over.open_at_ms, over.close_at_ms) == (7_000, 7_000)


def test_what_is_assumed_of_what_was_seen_ends_with_what_ends_it() -> None:
    """No answer, an answer of unknown, and off hours later: none is charged beyond the timer."""
    far, unknown = at(90_000), PowerRead(Power.UNKNOWN, at(90_000))
    assert step(OPEN, None, far, None, 1, ends_by_ms=30_000).meter_to_ms == 30_000
    assert step(OPEN, unknown, far, None, 1, ends_by_ms=30_000).meter_to_ms == 30_000
    assert step(OPEN, off(90_000), far, None, 1, ends_by_ms=30_000).close_at_ms == 30_000
    assert step(OPEN, off(20_000), at(20_000), None, 1, ends_by_ms=30_000).close_at_ms == 20_000


def test_what_was_seen_on_after_its_timer_runs_on() -> None:
    """The timer has failed, so nothing is known to have ended it."""
    assert step(OPEN, None, at(90_000), None, 1, ends_by_ms=4_000).meter_to_ms == 90_000
    assert step(OPEN, on(90_000), at(90_000), None, 1, ends_by_ms=30_000).meter_to_ms == 90_000


def test_a_timer_is_counted_in_the_time_that_the_interval_is_metered_in() -> None:
    """The wall clock was set back by 50 s since: the timer lies 10 s behind by either clock."""
    now = Moment(40_000, 90_000, "boot")
    assert step(OPEN, None, now, None, 1, ends_by_ms=30_000).meter_to_ms == 80_000


def test_an_assumption_is_said_when_it_begins_and_when_it_ends_an_interval() -> None:
    """Not with each pass; and not where the platform tells the end, or was asked a poll ago."""
    assert step(OPEN, None, at(9_000), None, 1).assumed_from_ms == 5_000
    assumed = replace(OPEN, metered_to_ms=9_000)
    assert step(assumed, None, at(10_000), None, 1).assumed_from_ms is None
    assert step(assumed, off(90_000), at(90_000), None, 1).assumed_from_ms == 5_000
    told = off(90_000, charged_until_ms=7_000)
    assert step(assumed, told, at(90_000), None, 1).assumed_from_ms is None
    assert step(OPEN, off(6_000), at(6_000), None, 5_000).assumed_from_ms is None


def test_rent_that_began_anew_ends_what_was_metered_before() -> None:
    """At the new start; or before, where something was armed to end it."""
    anew = on(90_000, charged_since_ms=60_000, told_at_ms=90_000)
    assert ended_before_ms(TOLD, anew, at(90_000), None) == 60_000
    assert ended_before_ms(TOLD, anew, at(90_000), 30_000) == 30_000
    over = off(90_000, charged_since_ms=60_000, charged_until_ms=70_000, told_at_ms=90_000)
    assert ended_before_ms(TOLD, over, at(90_000), 30_000) == 30_000


def test_a_wall_clock_set_forward_makes_no_new_rent() -> None:
    """By the platform's clock it had begun before it was last seen on: one rent, one minimum."""
    now = Moment(3_690_000, 90_000, "boot")
    read = PowerRead(Power.RUNNING, now, charged_since_ms=3_601_000, told_at_ms=90_000)
    assert ended_before_ms(TOLD, read, now, None) is None
    anew = replace(read, charged_since_ms=3_660_000)
    assert ended_before_ms(TOLD, anew, now, None) == 3_660_000


def test_what_an_answer_of_unknown_alone_had_run_was_not_there_before_a_new_rent() -> None:
    """The platform tells of a start after it, and no answer ever showed it on."""
    anew = on(90_000, charged_since_ms=60_000, told_at_ms=90_000)
    assert ended_before_ms(OPEN, anew, at(90_000), None) == OPEN.started_ms


def test_what_an_answer_of_unknown_alone_had_run_was_not_there_at_all() -> None:
    """The rent that is told ended before it; or it is only starting, free of charge."""
    late = replace(OPEN, started_ms=50_000, seen_to_ms=55_000)
    earlier = off(60_000, charged_since_ms=1_000, charged_until_ms=9_000, told_at_ms=60_000)
    assert step(late, earlier, at(60_000), None, 1) == MeterStep(close_at_ms=50_000)
    begins = PowerRead(Power.STARTING, at(60_000), charging=False, told_at_ms=60_000)
    assert step(late, begins, at(60_000), None, 1) == MeterStep(close_at_ms=50_000)


def test_the_end_of_an_earlier_rent_is_no_end_of_one_that_was_shown_on() -> None:
    """One of the answers came out of a cache: charged up to this look, not for as long again."""
    shown = replace(OPEN, started_ms=50_000, seen_to_ms=55_000)
    shown = replace(shown, seen_told_ms=55_000, seen_boot_id="boot")
    told = {"charged_since_ms": 1_000, "charged_until_ms": 50_000, "told_at_ms": 60_000}
    assert step(shown, off(60_000, **told), at(60_000), None, 9_000).close_at_ms == 60_000
    its_own = {**told, "charged_since_ms": 49_000, "charged_until_ms": 56_000}
    assert step(shown, off(60_000, **its_own), at(60_000), None, 9_000).close_at_ms == 57_000
    longer = {**told, "charged_until_ms": 55_001}
    assert step(shown, off(60_000, **longer), at(60_000), None, 9_000).close_at_ms == 55_001


def test_rent_that_agrees_or_is_told_by_no_clock_undoes_nothing() -> None:
    """Nor does an off read that tells of none."""
    late = replace(OPEN, started_ms=50_000, seen_to_ms=55_000)
    told = {"charged_since_ms": 1_000, "charged_until_ms": 9_000}
    assert step(late, off(60_000, **told), at(60_000), None, 1).close_at_ms == 58_000
    close = off(60_000, charged_since_ms=1_000, charged_until_ms=45_001, told_at_ms=60_000)
    assert step(late, close, at(60_000), None, 1).close_at_ms == 94_001
    assert step(late, off(60_000, told_at_ms=60_000), at(60_000), None, 1).close_at_ms == 60_000


def test_rent_that_goes_on_did_not_begin_anew() -> None:
    """Told of the same start, of none, by an unknown clock, or of a start still to come."""
    same = on(90_000, charged_since_ms=1_000, told_at_ms=90_000)
    assert ended_before_ms(OPEN, same, at(90_000), 30_000) is None
    assert ended_before_ms(OPEN, on(90_000), at(90_000), 30_000) is None
    untimed = on(90_000, charged_since_ms=60_000)
    assert ended_before_ms(OPEN, untimed, at(90_000), 30_000) is None
    ahead = on(90_000, charged_since_ms=99_000, told_at_ms=90_000)
    assert ended_before_ms(OPEN, ahead, at(90_000), 30_000) is None


def test_how_long_rent_has_run_is_the_platforms_word_where_no_clock_of_ours_knows() -> None:
    """Booted anew ten minutes later, with a wall clock that had been an hour ahead before."""
    now = Moment(605_000, 1_000, "new")
    before = replace(OPEN, started_ms=3_601_000, seen_to_ms=3_605_000, metered_to_ms=3_605_000)
    before = replace(before, anchor=Moment(3_605_000, 1_000, "new"), seen_told_ms=5_000)
    told = {"charged_since_ms": 1_000, "told_at_ms": 605_000}
    still_on = PowerRead(Power.RUNNING, now, **told)  # type: ignore[arg-type]  # only times
    assert step(before, still_on, now, None, 1).meter_to_ms == 4_205_000
    ended = PowerRead(Power.STOPPED, now, charged_until_ms=401_000, **told)  # type: ignore[arg-type]
    assert step(before, ended, now, None, 1).close_at_ms == 4_001_000
    close = PowerRead(Power.RUNNING, now, charged_since_ms=598_000, told_at_ms=605_000)
    assert step(before, close, now, None, 1).meter_to_ms == 3_605_000


# Seen on 605 s after its start, by a wall clock an hour ahead, which the new boot has mended.
SEEN = replace(OPEN, started_ms=3_600_000, anchor=Moment(3_600_000, 9_000, "old"))
SEEN = replace(SEEN, seen_to_ms=4_205_000, seen_told_ms=605_000, seen_boot_id="old")


def test_what_went_by_across_a_boot_is_the_platforms_word_where_that_is_more() -> None:
    """Ten minutes on its clock; and what the answer took since, on ours."""
    now = Moment(1_205_700, 1_000, "new")
    told = PowerRead(Power.RUNNING, Moment(1_205_000, 300, "new"), told_at_ms=1_205_000)
    assert anchored(SEEN, told, now) == Moment(4_805_700, 1_000, "new")


def test_else_the_wall_clocks_is() -> None:
    """Where it knows of more, within what clocks that agree may differ; or nothing was told."""
    now = Moment(9_000_000, 1_000, "new")
    ours = Moment(9_000_000, 1_000, "new")
    less = PowerRead(Power.RUNNING, now, told_at_ms=605_000 + 4_795_000 + CLOCKS_AGREE_MS)
    assert anchored(SEEN, less, now) == ours
    assert anchored(SEEN, PowerRead(Power.RUNNING, now), now) == ours
    assert anchored(SEEN, None, now) == ours
    assert anchored(replace(SEEN, seen_told_ms=None, seen_boot_id=""), less, now) == ours


def test_what_the_platforms_clock_said_goes_on_by_ours_where_a_look_does_not_tell() -> None:
    """Two minutes of answers without a time, or of unknown; then one that tells."""
    silent = PowerRead(Power.RUNNING, Moment(4_325_000, 134_000, "old"))
    unknown = PowerRead(Power.UNKNOWN, silent.begun, told_at_ms=9)
    assert told_with(SEEN, 4_325_000, silent) == (725_000, "old")
    assert told_with(SEEN, 4_325_000, unknown) == (725_000, "old")
    assert told_with(SEEN, 4_325_000, replace(silent, told_at_ms=725_900)) == (725_900, "old")


def test_what_it_said_stays_where_nothing_more_was_seen() -> None:
    """No answer; an earlier one; or it has never said anything."""
    silent = PowerRead(Power.RUNNING, Moment(4_325_000, 134_000, "old"))
    assert told_with(SEEN, 4_325_000, None) == (605_000, "old")
    assert told_with(SEEN, 4_205_000, silent) == (605_000, "old")
    assert told_with(OPEN, 4_325_000, silent) == (None, "")


def test_no_clock_tells_what_lies_between_a_look_of_another_boot_and_what_was_told() -> None:
    """Seen on in the new boot, without a time: the next told time measures nothing from there."""
    silent = PowerRead(Power.RUNNING, Moment(4_325_000, 1_000, "new"))
    assert told_with(SEEN, 4_325_000, silent) == (605_000, "")


def test_within_a_boot_the_platforms_clock_says_nothing_of_what_went_by() -> None:
    """Ours cannot be set back: a platform's that jumps a year ahead costs nothing."""
    told = on(10_000, told_at_ms=31_536_000_000)
    seen = replace(OPEN, seen_told_ms=5_000, seen_boot_id="boot")
    assert anchored(seen, told, at(10_000)) is OPEN.anchor


def test_an_answer_that_comes_some_looks_after_the_boot_still_tells_it() -> None:
    """The first got none: counted on by the wall clock, until the platform's is told."""
    first = anchored(SEEN, None, Moment(1_205_000, 1_000, "new"))
    assert first == Moment(3_600_000, 1_000, "new")
    waiting = replace(SEEN, anchor=first)
    now = Moment(1_265_000, 61_000, "new")
    told = PowerRead(Power.RUNNING, now, told_at_ms=1_265_000)
    assert anchored(waiting, told, now).utc_ms == 4_865_000


def test_an_end_that_is_told_of_an_earlier_rent_leaves_what_only_unknown_had_run() -> None:
    """That rent is told, and was not seen by any other look: the interval was never there."""
    assumed = replace(OPEN, started_ms=60_000, seen_to_ms=90_000, metered_to_ms=90_000)
    assumed = replace(assumed, anchor=at(90_000))
    told = off(99_000, charged_since_ms=1_000, charged_until_ms=30_000, told_at_ms=99_000)
    assert ended_before_ms(assumed, told, at(99_000), None) == 60_000


def test_rent_that_began_before_the_interval_does_not_lengthen_it() -> None:
    """A false answer of off had cut it: by the platform's clock it goes on with what was closed."""
    cut = replace(OPEN, started_ms=60_000, seen_to_ms=90_000, metered_to_ms=90_000)
    cut = replace(cut, anchor=at(90_000), seen_told_ms=90_000, seen_boot_id="boot")
    still = on(99_000, charged_since_ms=1_000, told_at_ms=99_000)
    assert step(cut, still, at(99_000), None, 1).meter_to_ms == 99_000
    ended = off(99_000, charged_since_ms=1_000, charged_until_ms=95_000, told_at_ms=99_000)
    assert step(cut, ended, at(99_000), None, 1).close_at_ms == 95_000


def test_a_rent_that_ended_when_the_last_one_did_is_that_one() -> None:
    """By the platform's clock; our wall clock was set forward by an hour since."""
    told = off(3_699_000, charged_since_ms=1_000, charged_until_ms=30_000, told_at_ms=99_000)
    assert is_of_before(told, 30_000)
    assert is_of_before(told, 30_000 - CLOCKS_AGREE_MS)
    assert not is_of_before(told, 30_000 - CLOCKS_AGREE_MS - 1)


UNKNOWN = PowerRead(Power.UNKNOWN, at(9_000))


@pytest.mark.parametrize(
    ("read", "rested_ms", "called_ms", "is_old"),
    [
        (UNKNOWN, 5_000, None, True),
        (UNKNOWN, 5_000, 5_000, True),
        (UNKNOWN, 5_000, 5_001, False),  # called on since
        (UNKNOWN, None, None, False),  # never seen off
        (off(9_000), 5_000, None, False),
        (None, 5_000, None, False),
    ],
)
def test_an_answer_of_unknown_about_what_was_off_tells_nothing_new(
    read: PowerRead | None, rested_ms: int | None, called_ms: int | None, *, is_old: bool
) -> None:
    """Unless it was called on since."""
    assert tells_nothing_new(read, rested_ms, called_ms) is is_old


def test_what_is_on_or_is_not_told_is_of_no_earlier_rent() -> None:
    """Each of the facts is needed."""
    told = off(99_000, charged_until_ms=30_000, told_at_ms=99_000)
    assert not is_of_before(None, 30_000)
    assert not is_of_before(told, None)
    assert not is_of_before(replace(told, told_at_ms=None), 30_000)
    assert not is_of_before(replace(told, charged_until_ms=None), 30_000)
    assert not is_of_before(on(99_000, charged_until_ms=30_000, told_at_ms=99_000), 30_000)
