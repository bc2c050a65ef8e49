from __future__ import annotations

import os
from statistics import median

import pytest

from costguard.sim.probe import cap_used_percents
from costguard.sim.run import play_seed

FULL = bool(os.environ.get("COSTGUARD_TEST_FULL"))
SEEDS = 20_000 if FULL else 500
CHUNK = 100 if FULL else 25


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_core_survives_its_weeks(first: int) -> None:
    """Tier 1: seven simulated days a seed, every tick judged by the platform's own figures."""
    found = [play_seed(seed, 1, 7.0).violations for seed in range(first, first + CHUNK)]
    assert not any(found), [violation for one in found for violation in one]


def test_the_same_seed_is_the_same_night() -> None:
    """Twice in one process, the same trace; another seed has another."""
    traces = [play_seed(seed, 1, 0.5).trace for seed in (3, 3, 4)]
    assert traces[0] == traces[1] != traces[2]


def test_the_cap_is_not_bought_with_timidity() -> None:
    """¥80 at ¥15 an hour, L of 120 s: 98 % of it trains per second, whole hours per hour."""
    assert median(cap_used_percents(quantum_s=1)) >= 98
    assert median(cap_used_percents(quantum_s=3_600)) >= 92
