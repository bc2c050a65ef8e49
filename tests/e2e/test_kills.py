"""The daemon SIGKILLed at random moments of a run, and nobody there to help.

Each time: the platform's own meter has stopped by the lease's end + L, what was saved is complete,
and the books are right once the daemon is back. 5 moments; 50 with COSTGUARD_TEST_FULL.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from costguard.store.database import read_only_session
from costguard.store.models import LeaseRow, LedgerEntry, PowerInterval
from tests.e2e.house import FINAL, House, house

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

KILLS = 50 if os.environ.get("COSTGUARD_TEST_FULL") else 5
SEED = 20261125
WITHIN_S = 15.0  # a whole run takes about as long, from its submission to the proven stop
SECOND_MICROS = -(-15_000_000 // 3_600)
TRAINER = Path(__file__).resolve().parents[1] / "agent" / "toy_trainer.py"
ORDER = {"steps": 140, "step_s": 0.05, "checkpoint_at": [20, 50]}
CLOCK_MS = 50  # the meter's and the lease's milliseconds are cut by different processes


def moments() -> list[float]:
    """When each daemon dies, in seconds after its job was taken; the same in every run."""
    lots = random.Random(SEED)
    return [round(lots.uniform(0, WITHIN_S), 3) for _ in range(KILLS)]


def bound_ms(on: House) -> int | None:
    """When the meter has stopped at the latest, by the books that the dead daemon left (UTC)."""
    with read_only_session(on.home / "costguard.db") as session:
        lease = session.query(LeaseRow).order_by(LeaseRow.id.desc()).first()
        if lease is None or lease.state != "open":
            return None
        return lease.end_utc_ms + lease.latency_ms


def meter_ms(instance: dict[str, Any]) -> list[tuple[int, int | None]]:
    """From when to when the platform has counted the instance's running."""
    return [(line["started_at_ms"], line["ended_at_ms"]) for line in instance["meter"]]


def booked(on: House) -> list[dict[str, Any]]:
    """The books' own power intervals and entries, for a failure that must be explained."""
    with read_only_session(on.home / "costguard.db") as session:
        return [
            {
                "started_ms": row.started_ms,
                "ended_ms": row.ended_ms,
                "posted_micros": row.posted_micros,
                "entries": [
                    (entry.kind, entry.amount_micros, entry.from_ms, entry.to_ms, entry.note)
                    for entry in session.query(LedgerEntry).filter_by(interval_id=row.id)
                ],
            }
            for row in session.query(PowerInterval).order_by(PowerInterval.id)
        ]


def saved(on: House) -> list[str]:
    """What lies complete on the instance's disk; AssertionError for what only looks it."""
    found = []
    for folder in (on.home / "localcloud").glob("instances/*/work/**/output/*"):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        for entry in json.loads((folder / "manifest.json").read_text())["files"]:
            content = (folder / entry["path"]).read_bytes()
            assert len(content) == entry["size"], folder
            assert hashlib.sha256(content).hexdigest() == entry["sha256"], folder
        found.append(folder.name)
    return sorted(found)


def play(after_s: float) -> dict[str, Any]:
    """One run, its daemon killed so long after its submission; what came of it."""
    with house() as on:
        on.start_daemon()
        script = TRAINER.read_text(encoding="utf-8")
        command = ["{python}", "toy.py", json.dumps(ORDER)]
        on.submit(command, lease="12s", save_grace="3s", script=script)
        time.sleep(after_s)
        state = on.row()["state"]
        assert on.daemon is not None
        on.daemon.kill()
        on.daemon.wait()
        until_ms = bound_ms(on)
        while until_ms is not None and time.time_ns() // 1_000_000 <= until_ms + CLOCK_MS:
            time.sleep(0.05)
        instances = on.truth()["instances"]
        seen = {
            "after_s": after_s,
            "state": state,
            "instances": len(instances),
            "charging": sum(one["charging"] for one in instances),
            "processes": sum(len(one["processes"]) for one in instances),
            "late_ms": [
                (ended or 10**15) - until_ms
                for one in instances
                for _began, ended in meter_ms(one)
                if until_ms is not None
            ],
            "stepped": bool(list((on.home / "localcloud").glob("**/output/trainer_log.jsonl"))),
            "saved": saved(on),
        }
        on.start_daemon()
        on.wait(lambda: on.row()["state"] in FINAL)
        meter = [line for one in on.truth()["instances"] for line in meter_ms(one)]
        try:
            on.assert_books(max(len(meter), 1) * SECOND_MICROS)
        except AssertionError as error:
            told = json.dumps({**seen, "meter": meter, "books": booked(on), "kinds": on.kinds()})
            raise AssertionError(f"{error}: {told}") from error
        seen["then"] = on.row()["pause_reason"]
        seen["instances_then"] = len(on.truth()["instances"])
        seen["charging_then"] = sum(one["charging"] for one in on.truth()["instances"])
        on.end()
        assert on.processes() == [], "something was left behind"
        return seen


@pytest.fixture(scope="module")
def played() -> Iterator[list[Future[dict[str, Any]]]]:
    """All of them, some side by side: they mostly wait for a lease to run out."""
    with ThreadPoolExecutor(5) as pool:
        yield [pool.submit(play, after_s) for after_s in moments()]


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_daemon_costs_no_more_than_its_lease(
    number: int, played: list[Future[dict[str, Any]]]
) -> None:
    """Meter, checkpoint and books, as the module says."""
    seen = played[number].result()
    sys.stdout.write(json.dumps(seen) + "\n")  # kept by `pytest -s`: see the evidence
    assert seen["instances"] <= 1
    assert seen["charging"] == seen["processes"] == 0
    assert all(late_ms <= CLOCK_MS for late_ms in seen["late_ms"])
    assert seen["saved"] or not seen["stepped"]
    assert seen["instances_then"] <= 1
    assert seen["charging_then"] == 0
