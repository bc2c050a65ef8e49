"""What a job's own telemetry advises, as codes with their figures; the words are the reader's.

The limits are the article's (3.3 and 4.3): a GPU below 60 % waits for something, below 50 % most
likely for its data; more than 80 % of its memory is close to the edge; a loss that does not fall
asks for better data, another template, a higher rate or more epochs. A loss below 1.5 is a hint
that something was learnt and never a verdict.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.core.contact import WARN
from costguard.store.models import Event, Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from costguard.store.models import Job

BUSY_PERCENT = 60
WAITING_PERCENT = 50
MEMORY_PERCENT = 80
FEWEST_WINDOWS = 6  # half a minute: less is the first step's own compiling and filling
FEWEST_LOSSES = 10
NEWEST = 5_000  # records of a kind that are looked at: seven hours of windows
FLAT_PERCENT = 5  # of its beginning: less than that is what a loss moves by chance
LEARNT_LOSS = 1.5


def advice(session: Session, job: Job) -> list[dict[str, Any]]:
    """The codes that hold for the job's present stage, each with what was seen; [] if none does."""
    steps = _records(session, job, "progress")
    found = []
    if steps:
        windows = [
            data
            for at_ms, data in _records(session, job, "gpu")
            if steps[0][0] <= at_ms <= steps[-1][0]
        ]
        found += _of_cards(windows)
    found += _of_mounts(session, job)
    found += _of_losses([data["loss"] for _at, data in steps if _is_figure(data.get("loss"))])
    return found


def card_figures(window: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Mean and highest utilisation and memory of the busiest card, in percent."""
    cards = window.get("cards") or []
    means = [card["util_mean"] for card in cards if card.get("util_mean") is not None]
    tops = [card["util_max"] for card in cards if card.get("util_max") is not None]
    used = [
        100 * card["mem_used_mib"] / card["mem_total_mib"]
        for card in cards
        if card.get("mem_used_mib") is not None and card.get("mem_total_mib")
    ]
    return max(means, default=None), max(tops, default=None), max(used, default=None)


def _of_cards(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    figures = [card_figures(window) for window in windows]
    busy = [mean for mean, _top, _used in figures if mean is not None]
    used = max((used for _mean, _top, used in figures if used is not None), default=0)
    found: list[dict[str, Any]] = []
    if len(busy) >= FEWEST_WINDOWS:
        percent = round(sum(busy) / len(busy))
        if percent < WAITING_PERCENT:
            found.append({"code": "gpu_waits", "gpu_util_percent": percent})
        elif percent < BUSY_PERCENT:
            found.append({"code": "gpu_below_par", "gpu_util_percent": percent})
    if used > MEMORY_PERCENT:
        found.append({"code": "memory_is_tight", "gpu_memory_percent": round(used)})
    return found


def _of_mounts(session: Session, job: Job) -> list[dict[str, Any]]:
    """Data that first contact found on a network file system, by its table (`core/contact.py`)."""
    query = select(Event.data_json).where(Event.job_id == job.id, Event.kind == "first_contact")
    newest = session.scalars(query.order_by(Event.id.desc()).limit(1)).first()
    rows = json.loads(newest).get("rows") or [] if newest is not None else []
    return [
        {"code": "data_on_network", "seen": row.get("seen")}
        for row in rows
        if str(row.get("check")).startswith("data in ") and row.get("verdict") == WARN
    ]


def _of_losses(losses: Sequence[float]) -> list[dict[str, Any]]:
    if len(losses) < FEWEST_LOSSES:
        return []
    part = max(len(losses) // 5, 2)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    seen = {"loss_first": round(first, 4), "loss_last": round(last, 4)}
    found: list[dict[str, Any]] = []
    if last > first * (100 - FLAT_PERCENT) / 100:
        found.append({"code": "loss_is_flat", **seen})
    if last < LEARNT_LOSS:
        found.append({"code": "loss_is_low", **seen})
    return found


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _records(session: Session, job: Job, kind: str) -> list[tuple[int, dict[str, Any]]]:
    """The present attempt's newest records of a kind in the present stage, oldest first."""
    query = select(Telemetry.at_ms, Telemetry.data_json).where(
        Telemetry.job_id == job.id,
        Telemetry.stage == job.stage,
        Telemetry.kind == kind,
        Telemetry.seq > job.first_seq,
    )
    rows = session.execute(query.order_by(Telemetry.seq.desc()).limit(NEWEST)).all()
    return [(at, json.loads(text)) for at, text in reversed(rows)]
