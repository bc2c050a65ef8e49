from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from costguard.sim.run import play_seed

# Every seed that ever failed. What a seed draws changes when the simulator learns new troubles:
# the lesson itself is kept as a test of the part that it was about, named in the commit.
# `full`: another seed here has the same lesson; played by `make test-full`.
CASES = json.loads(Path(__file__).with_name("regressions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"tier{case['tier']}-{case['seed']}")
def test_a_seed_that_once_failed_does_not_again(case: dict[str, int]) -> None:
    """Whatever it found then."""
    if case.get("full") and not os.environ.get("COSTGUARD_TEST_FULL"):
        pytest.skip("another seed here has the same lesson: COSTGUARD_TEST_FULL=1 plays them all")
    result = play_seed(case["seed"], case["tier"], case["days"], edition=case["edition"])
    assert result.violations == []
