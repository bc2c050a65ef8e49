"""`python -m tests.mutants [MODULE ...]`: plant each mutant, and name those that no test finds."""

from __future__ import annotations

import ast
import sys

import hypothesis
import pytest

from tests.mutants.hunt import ROOT, not_found
from tests.mutants.known import ALIKE
from tests.mutants.plant import Mutant, mutants

TESTS: dict[str, tuple[str, ...]] = {
    "core/money": ("tests/core/test_money.py",),
    "core/calendar": ("tests/core/test_calendar.py", "tests/core/test_tariff.py"),
    "core/tariff": ("tests/core/test_tariff.py", "tests/core/test_lease.py"),
    "core/meter": ("tests/core/test_meter.py",),
    "core/lease": ("tests/core/test_lease.py",),
    "core/power": ("tests/core/test_power.py",),
    "core/forecast": ("tests/core/test_forecast.py", "tests/core/test_schedule.py"),
}
SIDE_BY_SIDE = 2


def survivors(module: str) -> tuple[int, list[Mutant]]:
    """How many mutants there are, and those that every test passes with."""
    source = (ROOT / "costguard" / f"{module}.py").read_text(encoding="utf-8")
    planted = list(mutants(module, source))
    sound = Mutant(module, 0, "", "", ast.parse(source))
    if not not_found([sound], TESTS[module], 1):
        raise SystemExit(f"{module}: its tests fail without any mutant; mend that first")
    return len(planted), not_found(planted, TESTS[module], SIDE_BY_SIDE)


def main(modules: list[str]) -> int:
    """1 if a mutant survives that is not known to be the same program in other words."""
    assert pytest.__version__
    assert hypothesis.__version__, "both are loaded once, before the processes part"
    strangers = 0
    for module in modules or list(TESTS):
        count, left = survivors(module)
        alike = [one for one in left if one.key in ALIKE]
        strangers += len(left) - len(alike)
        others = len(left) - len(alike)
        counts = f"{count} mutants, {count - len(left)} found, {len(alike)} alike, {others} not"
        lines = [f"{module}: {counts} found"]
        lines += [
            f"  line {one.line}: {one.before}\n        -> {one.after}"
            for one in left
            if one.key not in ALIKE
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    return 1 if strangers else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
