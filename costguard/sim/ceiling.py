"""How much of one machine the books may have at most: every metered second charged once, not twice.

What they may have above the platform's meter is what they had to assume, and all of it is here:

- `told nothing`: where the platform does not say when rent began and ended, or the wall clock was
  set, or an answer came out of a cache, rent is taken to have run from the last look that showed
  the machine off (older by the cache's age) to the first that shows it on, and from the last that
  shows it on to the first that shows it off. What was started and never seen on may have run, up
  to where its lease ended it, where a timer does that.
- `price`: what it was between two looks nobody says; the dearest that was in force counts.
- `clock`: elapsed time is the larger of what two clocks say: a wall clock set forward is believed.
- `rounding`: one quantum for each interval, and what a price change moves of one.
- `calls`: an answer is on its way for a while.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from costguard.sim.clock import NEVER_MS
from costguard.sim.cloud import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.sim.clock import SimClock
    from costguard.sim.cloud import Machine, Prices

S_PER_HOUR = 3_600
CALL_MS = 5_000  # an answer and a time-out; clocks that differ by less are taken to agree


@dataclass
class Span:
    """A stretch in which rent may have run, as the books can have it."""

    run: Run
    forward_ms: int  # how far the wall clock had been set forward in all when it began

    def goes_on(self, from_ms: int, to_ms: int, price: int) -> None:
        """It may have run from `from_ms` to `to_ms` too, at this price."""
        if price != self.run.prices[-1][1]:
            self.run.prices.append((max(from_ms, self.run.started_ms), price))
        self.run.ended_ms = to_ms


class Ceiling:
    """One machine: what was shown of it so far, and what that allows."""

    def __init__(
        self, machine: Machine, clock: SimClock, rules: Prices, *, tells: bool, cache_age_ms: int
    ) -> None:
        """`tells`: the platform says when rent began and ended."""
        self._machine, self._clock, self._rules = machine, clock, rules
        self._tells, self._cache_age_ms = tells, cache_age_ms
        self.looked_ms = machine.created_ms - CALL_MS  # the last look that is in the books
        self._was_on = False
        self._off_age_ms = 0  # how old the answer of the last look may have been
        self._is_started = True  # and not seen to have ended since
        self._ends_by_ms: int | None = None  # by when what was started had surely ended
        self._forward_ms = clock.forward_ms  # as it was at the last look that showed it off
        self.is_stale = False  # an answer out of a cache came since the last look
        self.is_unknown = False  # an answer that nobody knows came since
        self.was_shown_on = False  # by an answer out of a cache, or a look not written, since
        self.flips = 0  # answers that showed it off while it was on: each may cut its interval
        self._closed_micros = 0
        self._span: Span | None = None

    def micros(self) -> int:
        """The most that the books may have for its running."""
        return self._closed_micros + (0 if self._span is None else self._cost(self._span))

    def _cost(self, span: Span) -> int:
        run, quantum_s = span.run, self._machine.prices.quantum_s
        assert run.ended_ms is not None, "a span is as long as what was seen of it"
        end_ms = run.ended_ms + self._clock.forward_ms - span.forward_ms + CALL_MS
        prices = [price for _, price in run.prices]
        moved = sum(abs(later - price) for price, later in pairwise(prices))
        quanta = (1 + self.flips) * max(prices) + moved
        turns = len(run.rules.turns_ms(run.started_ms, end_ms))
        quanta += turns * max(prices) * (1_000 - run.rules.night_per_mille) // 1_000
        again = self.flips * run.rules.minimum_s * max(prices) // S_PER_HOUR
        if self._clock.was_set:  # the nights of a wall clock that was set are not the platform's
            run = replace(run, rules=replace(run.rules, night_per_mille=1_000))
        whole = replace(run, ended_ms=end_ms).micros(end_ms, quantum_s) + again
        whole = max(whole, run.rules.minimum_s * max(prices) // S_PER_HOUR)
        return whole + quanta * quantum_s // S_PER_HOUR + len(prices) + 2

    @property
    def has_looked(self) -> bool:
        """Whether any look is in the books; before, the price is as old as the asking for it."""
        return self.looked_ms >= self._machine.created_ms

    def started(self, ends_by_ms: int | None) -> None:
        """It was told to run, under a lease; by when that has ended it, if a timer does."""
        self._is_started, self._ends_by_ms = True, ends_by_ms

    def lease_ends(self, ends_by_ms: int | None, *, is_over: bool) -> None:
        """Its lease as it is now, if it has one; `is_over`: proven to have stopped."""
        if ends_by_ms is not None:
            self._ends_by_ms = ends_by_ms
        self._is_started = self._is_started and not is_over

    def look(self, at_ms: int, *, on: bool, price: int, vague: bool) -> None:
        """The books have seen it so, at `at_ms`; `price` is the dearest that it can have had."""
        vague = vague or self.is_stale or not self._tells
        found = self._between(self.looked_ms, at_ms, on=on, vague=vague)
        if found is not None and self._span is None:
            run = Run(found[0], [(found[0], price)], ended_ms=found[1], rules=self._rules)
            self._span = Span(run, self._forward_ms)
        elif found is not None and self._span is not None:
            self._span.goes_on(self.looked_ms, found[1], price)
        if not on:
            self._closed_micros = self.micros()
            self._span, self.flips = None, 0
            self._forward_ms = self._clock.forward_ms
        if self._was_on and not on:
            self._is_started = False
        self.looked_ms, self._was_on = at_ms, on
        self.is_stale = self.is_unknown = self.was_shown_on = False
        self._off_age_ms = self._cache_age_ms

    def _between(
        self, before_ms: int, at_ms: int, *, on: bool, vague: bool
    ) -> tuple[int, int] | None:
        """Where between two looks rent may have run; None: nowhere."""
        runs = [
            run
            for run in self._machine.runs
            if run.started_ms <= at_ms and (run.ended_ms is None or run.ended_ms > before_ms)
        ]
        ended_ms = max((min(run.ended_ms or at_ms, at_ms) for run in runs), default=before_ms)
        if self._was_on:
            return before_ms, (at_ms if on or vague else ended_ms)
        off_ms = before_ms - self._off_age_ms
        if vague and self.was_shown_on:
            return off_ms, at_ms
        if not vague and runs:  # after an unknown answer it is taken to be on, and never put back
            return (off_ms if self.is_unknown else runs[-1].started_ms), ended_ms
        if not vague:
            return (off_ms, at_ms) if self.is_unknown else None
        if on:
            return off_ms, at_ms
        if not runs and not self._is_started and not self.is_unknown:
            return None
        ends_by_ms = at_ms if self._ends_by_ms is None else max(self._ends_by_ms, ended_ms)
        to_ms = min(at_ms, ends_by_ms)
        return (off_ms, to_ms) if to_ms > off_ms else None


def dearest(log: Sequence[tuple[int, int]], from_ms: int, to_ms: int) -> int:
    """The highest price that was in force at any time from the one to the other."""
    first = max(bisect_right(log, (from_ms, NEVER_MS)) - 1, 0)
    last = bisect_right(log, (to_ms, NEVER_MS))
    return max(price for _, price in log[first : max(last, first + 1)])
