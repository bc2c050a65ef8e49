"""The half hour that led up to a verdict, or to now: how GPU and loss went, at a glance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.report.advice import card_figures
from costguard.report.figures import time_text
from costguard.store.models import Telemetry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.models import Job

SLOTS = 40  # as many as a line of 80 columns has room for beside its label and its figures
SLOT_MS = 45_000
NEWEST = 2_000  # records that are looked at: more than half an hour has


def lead_up(session: Session, job: Job) -> dict[str, Any] | None:
    """Of each slot the mean utilisation of the busiest card and the last loss; None for no news.

    It begins with the first slot that has any; None as a whole where nothing was heard.
    """
    query = (
        select(Telemetry.kind, Telemetry.at_ms, Telemetry.data_json)
        .where(Telemetry.job_id == job.id, Telemetry.kind.in_(("gpu", "progress")))
        .order_by(Telemetry.stage.desc(), Telemetry.seq.desc())
        .limit(NEWEST)
    )
    records = [(kind, at_ms, json.loads(text)) for kind, at_ms, text in session.execute(query)]
    if not records:
        return None
    end_ms = job.verdict_utc_ms or max(at_ms for _kind, at_ms, _data in records)
    from_ms = end_ms - SLOTS * SLOT_MS
    utils: list[list[float]] = [[] for _ in range(SLOTS)]
    losses: list[float | None] = [None] * SLOTS
    for kind, at_ms, data in reversed(records):
        if not from_ms < at_ms <= end_ms:
            continue
        slot = (at_ms - from_ms - 1) // SLOT_MS
        if kind == "gpu":
            util = card_figures(data)[0]
            utils[slot] += [] if util is None else [util]
        elif isinstance(data.get("loss"), int | float):
            losses[slot] = round(data["loss"], 4)
    means = [round(sum(each) / len(each), 1) if each else None for each in utils]
    if all(value is None for value in (*means, *losses)):
        return None
    silent = next(n for n in range(SLOTS) if means[n] is not None or losses[n] is not None)
    return {
        "from": time_text(from_ms + silent * SLOT_MS),
        "to": time_text(end_ms),
        "slot_s": SLOT_MS // 1_000,
        "gpu_util_percent": means[silent:],
        "loss": losses[silent:],
    }
