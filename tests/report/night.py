"""A night in the books: two stages with leases, telemetry, a saved adapter and a verdict."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from costguard.store import ledger
from costguard.store.events import add_event
from costguard.store.models import Artifact
from tests.report.books import MONTH, START_MS, YUAN, Books

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

HOUR_S = 3_600
PHASES = (
    (0, "setup", 0, 300),
    (0, "download", 300, 840),
    (0, "load", 840, 1_020),
    (0, "train", 1_020, 2_400),
    (1, "load", 2_400, 2_520),
    (1, "train", 2_520, 10_440),
    (1, "save", 10_440, 10_500),
)
TRAINING = tuple(each for each in PHASES if each[1] == "train")
END_S = 10_500
LEASE_S, EVERY_S = 900, 450
UTIL_PERCENT, MEMORY_MIB, CARD_MIB = 91, 18_300, 24_576


def a_night(
    session: Session, name: str = "kefu", *, util_percent: int = UTIL_PERCENT, every_s: int = 60
) -> Books:
    """Three hours on an RTX 3090 at 15 yuan an hour under a cap of 60, finished and off."""
    books = Books.open(
        session,
        name,
        cap_yuan=60,
        state="finished",
        phase=None,
        pause_reason="finished",
        verdict_text="training ended with exit code 0",
        verdict_json=json.dumps({"exit_code": 0}),
        verdict_utc_ms=START_MS + END_S * 1_000,
    )
    books.instance.power = "stopped"
    books.instance.paused_micros_per_hour = 36_000
    _money(books, every_s)
    _telemetry(books)
    books.run_to(books.interval("disk"), 5 * HOUR_S, phase="disk", stage=1)
    books.job.stage = 1
    session.add(
        Artifact(
            job_id=books.job.id,
            stage=1,
            name="adapter",
            kind="adapter",
            step=375,
            complete=True,
            files_json="[]",
            seen_ms=START_MS,
            pulled_ms=START_MS + END_S * 1_000,
            path=f"artifacts/{name}/adapter",
        )
    )
    off_ms = START_MS + (END_S + 20) * 1_000
    add_event(
        session,
        books.job.id,
        off_ms,
        "stop_confirmed",
        "off",
        {"seen_ms": [off_ms - 9_000, off_ms]},
    )
    return books


def _money(books: Books, every_s: int) -> None:
    """A lease renewed at half, a charge each poll, and what the last one did not use given back."""
    running, job, lease = books.interval(), books.job, books.lease
    price_s = 15 * YUAN // HOUR_S
    for at_s in range(0, END_S, every_s):
        if at_s % EVERY_S < every_s:
            held = ledger.lease_remaining_micros(books.session, lease.id)
            more = max((LEASE_S + 60) * price_s - held, 0)
            at_ms = START_MS + at_s * 1_000
            ledger.reserve(books.session, job, lease, more, ledger.Caps(), at_ms, MONTH)
            lease.seq += 1
        to_s = min(at_s + every_s, END_S)
        stage, phase = next(each[:2] for each in PHASES if to_s <= each[3])
        books.run_to(running, to_s, phase=phase, stage=stage)
    running.ended_ms = START_MS + END_S * 1_000
    ledger.settle(books.session, job, lease, running.ended_ms, MONTH)
    lease.state = "settled"


def _telemetry(books: Books) -> None:
    """Each half minute a window of the card, and a loss that falls by the way of a good run."""
    for stage, _phase, from_s, to_s in TRAINING:
        books.job.stage, seq, steps = stage, 0, (to_s - from_s) // 30
        for step in range(steps + 1):
            at_s = from_s + step * 30
            swing = math.sin(step * 1.7) * 4
            card = {
                "util_mean": UTIL_PERCENT + swing,
                "util_max": min(UTIL_PERCENT + 6 + swing, 100),
                "mem_used_mib": MEMORY_MIB + step % 7 * 60,
                "mem_total_mib": CARD_MIB,
            }
            loss = 1.32 + 1.9 * math.exp(-step / (steps / 4)) / (stage + 1) + swing / 60
            seq += 2
            books.tell("gpu", seq - 1, after_s=at_s, window_s=5, cards=[card])
            books.tell(
                "progress", seq, after_s=at_s, step=step, total_steps=steps, loss=round(loss, 4)
            )
