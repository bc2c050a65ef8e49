from __future__ import annotations

from costguard.sim.ceiling import CALL_MS, Ceiling, dearest
from costguard.sim.clock import SimClock
from costguard.sim.cloud import PLAIN, Machine, Prices, Run

SECOND = 1_000
PRICE = 3_600_000  # a thousand micro-yuan a second
SLACK = 1_000 + CALL_MS + 3  # a quantum, the way of an answer, and rounding


def watched(clock: SimClock, *runs: tuple[int, int | None], tells: bool = True) -> Ceiling:
    """A machine made now that runs so, in seconds from now, billed per second."""
    now_ms = clock.true_ms
    machine = Machine("m-1", "t", 1, False, now_ms, now_ms, Prices(PRICE, 1, 0))
    for from_s, to_s in runs:
        ended_ms = None if to_s is None else now_ms + to_s * SECOND
        begun_ms = now_ms + from_s * SECOND
        machine.runs.append(Run(begun_ms, [(begun_ms, PRICE)], ended_ms=ended_ms))
    return Ceiling(machine, clock, PLAIN, tells=tells, cache_age_ms=10 * SECOND)


def look(ceiling: Ceiling, clock: SimClock, after_s: int, *, on: bool) -> int:
    """A look so long after the last one; what the books may have by then, in seconds of rent."""
    clock.advance(after_s * SECOND)
    ceiling.look(clock.true_ms, on=on, price=PRICE, vague=False)
    return (ceiling.micros() - (SLACK if ceiling.micros() else 0)) // 1_000


def test_what_the_platform_tells_is_charged_to_the_second() -> None:
    """On from the 20th to the 100th second, and looks each minute."""
    clock = SimClock()
    ceiling = watched(clock, (20, 100))
    assert [look(ceiling, clock, 60, on=on) for on in (True, False, False)] == [40, 80, 80]


def test_where_no_times_are_told_the_looks_around_bound_the_rent() -> None:
    """From the call that made it to the first look that shows it off."""
    clock = SimClock()
    ceiling = watched(clock, (20, 100), tells=False)
    after_call_s = CALL_MS // SECOND
    allowed = [look(ceiling, clock, 60, on=on) for on in (True, False, False)]
    assert allowed == [60 + after_call_s, 120 + after_call_s, 120 + after_call_s]


def test_a_second_rent_begins_at_the_last_look_that_showed_it_off() -> None:
    """Older by the cache's age."""
    clock = SimClock()
    ceiling = watched(clock, (20, 100), (150, None), tells=False)
    for on in (True, False):
        before = look(ceiling, clock, 60, on=on)
    assert look(ceiling, clock, 60, on=True) - before - SLACK // 1_000 == 60 + 10


def test_what_was_never_seen_on_may_have_run_until_its_lease_had_ended_it() -> None:
    """Hours off are nobody's to charge."""
    clock = SimClock()
    ceiling = watched(clock, tells=False)
    ceiling.started(clock.true_ms + 300 * SECOND)
    assert look(ceiling, clock, 7_200, on=False) == 300 + CALL_MS // SECOND


def test_what_ended_and_was_not_started_again_cannot_have_run() -> None:
    """However long nobody looked."""
    clock = SimClock()
    ceiling = watched(clock, (20, 100), tells=False)
    for on in (True, False):
        before = look(ceiling, clock, 60, on=on)
    assert look(ceiling, clock, 7_200, on=False) == before


def test_a_wall_clock_set_forward_is_believed() -> None:
    """Elapsed time is the larger of what two clocks say."""
    clock = SimClock()
    ceiling = watched(clock, (0, None))
    look(ceiling, clock, 60, on=True)
    clock.set_wall(600 * SECOND)
    assert look(ceiling, clock, 60, on=True) == 120 + 600


def test_an_answer_of_unknown_allows_what_lies_between_two_looks() -> None:
    """It is taken to be on there, and only the bill puts that back."""
    clock = SimClock()
    ceiling = watched(clock, (70, None))
    ceiling.is_unknown = True
    assert look(ceiling, clock, 60, on=False) == 60 + CALL_MS // SECOND


def test_an_unknown_answer_allows_it_too_where_the_platform_tells_no_times() -> None:
    """It was proven off by answers out of a cache before the next look."""
    clock = SimClock()
    ceiling = watched(clock, tells=False)
    ceiling.lease_ends(None, is_over=True)
    assert look(ceiling, clock, 60, on=False) == 0
    ceiling.is_unknown = True
    assert look(ceiling, clock, 60, on=False) == 60 + 10


def test_a_look_that_showed_it_on_and_was_not_written_allows_it_too() -> None:
    """Where the platform tells no times: from the last look in the books to the next."""
    clock = SimClock()
    ceiling = watched(clock, (20, 40), tells=False)
    look(ceiling, clock, 30, on=True)
    before = look(ceiling, clock, 100, on=False)
    assert look(ceiling, clock, 3_600, on=False) == before
    ceiling.was_shown_on = True
    assert look(ceiling, clock, 3_600, on=False) > before + 3_600


def test_the_dearest_price_between_two_looks_counts() -> None:
    """One that was in force at either end too."""
    log = [(0, 5), (100, 9), (200, 3)]
    assert [dearest(log, *span) for span in ((0, 99), (50, 100), (150, 300), (200, 300))] == [
        5,
        9,
        9,
        3,
    ]
