from __future__ import annotations

import pytest

from costguard.sim.run import play_seed
from tests.sim.mutants import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within so many seeds, as a breach of the rule that it breaks, and not without it."""
    mutant = MUTANTS[name]
    mutant.plant(monkeypatch)
    broken: set[str] = set()
    for seed in range(mutant.first_seed, mutant.first_seed + mutant.seeds):
        result = play_seed(seed, mutant.tier, mutant.days, mutant.focus, mutant.edition)
        broken |= {violation.invariant for violation in result.violations}
        if broken & mutant.invariants:
            monkeypatch.undo()
            sound = play_seed(seed, mutant.tier, mutant.days, mutant.focus, mutant.edition)
            assert sound.violations == [], "what was caught was there before"
            return
    raise AssertionError(f"not caught within {mutant.seeds} seeds; broken: {broken}")
