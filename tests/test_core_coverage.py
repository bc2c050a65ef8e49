from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_branch_of_the_core_is_taken_by_its_own_tests(tmp_path: Path) -> None:
    """Those with examples alone: what chance draws for a property may be another branch next time.

    In a process of its own, so that what other tests have run counts for nothing.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST_"))}
    told = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "tests/core", "-m", "not hypothesis"),
            *("-p", "no:cacheprovider", "--cov=costguard.core", "--cov-branch"),
            *("--cov-report=term-missing:skip-covered", "--cov-fail-under=100"),
        ],
        cwd=ROOT,
        env={**clean, "COVERAGE_FILE": str(tmp_path / "coverage")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-4_000:]
