"""Foresee: keep the forecast of a running job up to date, and say in time that it will not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from costguard.core.forecast import Fit, Forecast
from costguard.core.moment import elapsed_ms
from costguard.core.money import yuan_text
from costguard.core.outlook import outlook
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.models import Job

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.core.snapshot import Snapshot
    from costguard.daemon.context import Context
    from costguard.daemon.memory import JobMemory

EVERY_MS = 5_000


def note_forecast(
    context: Context, job_id: int, memory: JobMemory, snap: Snapshot, now: Moment
) -> None:
    """Reckon anew every few seconds while it trains.

    Bad news, and its end, are written at once. The figures alone wait for whatever the job records
    next, within a poll: a transaction of their own would cost more than all the reckoning.
    """
    if memory.forecast_at is not None and elapsed_ms(memory.forecast_at, now) < EVERY_MS:
        return
    found = outlook(snap, now)
    if found is None:
        return
    memory.forecast_at = now
    turned = _turn(memory, found)
    spent = next(account.posted_micros for account in snap.accounts)  # the job's own comes first
    total = found.total_micros(spent)
    document = {
        "eta_ms": found.time_ms.likely,
        "total_micros": [total.low, total.likely, total.high],
        "fit": found.fit.value,
        "bites_at_step": found.bites_at_step,
        "evaluations": found.evaluations.value,
    }
    memory.forecast_json = json.dumps(document)
    if turned is None:
        return
    text = _text(found, total.likely)
    try:
        with context.store.write() as session:
            session.get_one(Job, job_id).forecast_json = json.dumps(document)
            add_event(session, job_id, now.utc_ms, turned, text, document)
    except StoreUnavailable:
        return  # the next one is reckoned in a few seconds
    context.notify("warning" if memory.is_short else "info", snap.spec.name, text)


def _turn(memory: JobMemory, found: Forecast) -> str | None:
    """The event that this forecast makes: bad news at once, good news only when it is sure."""
    if found.fit is Fit.SHORT and not memory.is_short:
        memory.is_short = True
        return "will_not_fit"
    if found.fit is Fit.FITS and memory.is_short:
        memory.is_short = False
        return "fits_again"
    return None


def _text(found: Forecast, likely_micros: int) -> str:
    if found.fit is Fit.FITS:
        return f"it fits the budget after all: about {yuan_text(likely_micros)} yuan in all"
    where = ""
    if found.bites_at_step is not None:
        where = f"; the budget ends near step {found.bites_at_step}"
    return f"it will not fit the budget: about {yuan_text(likely_micros)} yuan to finish{where}"
