from __future__ import annotations

from costguard.core.forecast import Fit, Forecast, Span
from costguard.sim.cloud import Run
from costguard.sim.run import play_seed
from tests.bench.forecast_sim import Look, Miss, Watched, miss, play

YUAN = 1_000_000
SECOND = 3_600 * YUAN  # a yuan a second


def watched(low: int, likely: int, high: int) -> Watched:
    """A run of 100 yuan, of which 40 were posted when this was forecast of the rest."""
    cost = Span(low * YUAN, likely * YUAN, high * YUAN)
    found = Forecast(cost, cost, None, Fit.FITS, None)
    run = Run(0, [(0, SECOND)], ended_ms=100_000)
    return Watched(run, 1, {10: Look(found, 40 * YUAN, 0), 25: Look(None, 0, 0)})


def test_a_forecast_is_held_against_the_platforms_meter() -> None:
    """Sixty yuan came; both ends of the range belong to it."""
    assert miss(watched(40, 48, 60), 10) == Miss(0.2, 0.12, within=True, width=20 / 60)
    assert miss(watched(60, 75, 80), 10) == Miss(0.25, 0.15, within=True, width=20 / 60)
    assert miss(watched(40, 48, 59), 10) == Miss(0.2, 0.12, within=False, width=19 / 60)


def test_where_nothing_was_forecast_nothing_is_judged() -> None:
    """Too little was logged, or nobody could look."""
    assert miss(watched(1, 2, 3), 25) is None
    assert miss(watched(1, 2, 3), 50) is None


def test_looking_on_changes_nothing_of_a_world() -> None:
    """What the bench measures is the daemon as it is; its runs are seen at all three shares."""
    tally = play([10], 1.0)
    assert tally.traces == [play_seed(10, 1, 1.0, edition=1).trace]
    assert [sorted(run.looks) for _, run in tally.finished] == [[10, 25, 50]]
