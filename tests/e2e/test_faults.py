"""The real daemon and the real local platform over HTTP and SSH, one fault at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PRICE_MICROS_PER_HOUR = 15_000_000
ONCE, TWICE = {"count": 1}, {"count": 2}

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "per second": (1, {}),
    "per seven seconds": (7, {}),
    "per minute": (60, {}),
    "per hour": (3600, {}),
    "stop ignored": (1, {"stop_ignored": TWICE}),
    "stop ignored, per hour": (3600, {"stop_ignored": ONCE}),
    "off but billing": (1, {"off_but_billing": ONCE}),
    "slow start": (1, {"slow_start_s": 3}),
    "slow stop, per seven seconds": (7, {"slow_stop_s": 3}),
    "500 on stop": (1, {"http_500": {**TWICE, "routes": ["stop"]}}),
    "429 on reads": (1, {"http_429": {"count": 3, "routes": ["get"]}}),
    "no capacity at first": (1, {"no_capacity": ONCE}),
    "create times out before": (1, {"timeout_before": {**ONCE, "routes": ["create"]}}),
    "create times out after": (1, {"timeout_after": {**ONCE, "routes": ["create"], "hold_s": 6}}),
    "stop times out before": (1, {"timeout_before": {**ONCE, "routes": ["stop"]}}),
    "stop times out after": (60, {"timeout_after": {**ONCE, "routes": ["stop"], "hold_s": 6}}),
    "timer ignored": (1, {"timer_ignored": True}),
}


def run_case(name: str, *options: str) -> dict[str, Any]:
    """What came of the case."""
    quantum_s, faults = CASES[name]
    case = [str(quantum_s), json.dumps(faults), *options]
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.fault_case", *case],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


@pytest.fixture(scope="module")
def cases() -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """Every case, four at a time: they mostly wait."""
    with ThreadPoolExecutor(4) as pool:
        yield {name: pool.submit(run_case, name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_the_job_ends_stopped_and_the_books_match_the_bill(
    name: str, cases: dict[str, Future[dict[str, Any]]]
) -> None:
    """Finished, off, one instance, and ledger and bill within one quantum a power interval."""
    outcome = cases[name].result()
    assert (outcome["state"], outcome["reason"]) == ("finished", "finished"), outcome
    assert (outcome["instances"], outcome["charging"], outcome["processes"]) == (1, 0, 0)
    quantum_micros = -(-CASES[name][0] * PRICE_MICROS_PER_HOUR // 3600)
    assert abs(outcome["ledger"] - outcome["bill"]) <= quantum_micros * outcome["lines"]
    assert outcome["ledger"] >= outcome["bill"], "the ledger is never the lower one"
    assert outcome["broken"] == 0
    assert "overrun" not in outcome["kinds"]


def test_an_ignored_stop_is_repeated_aloud(cases: dict[str, Future[dict[str, Any]]]) -> None:
    """And believed only once it was seen."""
    kinds = cases["stop ignored"].result()["kinds"]
    assert kinds.count("stop_not_confirmed") == 2
    assert kinds.count("stop_call") == 3
    assert kinds.index("stop_confirmed") > len(kinds) - 1 - kinds[::-1].index("stop_call")


def test_no_capacity_is_waited_out_and_told(cases: dict[str, Future[dict[str, Any]]]) -> None:
    """Nothing is rented twice for it."""
    kinds = cases["no capacity at first"].result()["kinds"]
    assert (kinds.count("no_capacity"), kinds.count("rented")) == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit another process")
def test_with_the_disk_full_the_instance_is_stopped_and_the_books_catch_up() -> None:
    """Stopping needs no record; what could not be written is written when there is space."""
    outcome = run_case("per second", "disk-full")
    assert outcome["while_full"] == "stopped while the database says training"
    assert (outcome["state"], outcome["charging"], outcome["broken"]) == ("finished", 0, 0)
    quantum_micros = -(-PRICE_MICROS_PER_HOUR // 3600)
    assert abs(outcome["ledger"] - outcome["bill"]) <= quantum_micros
