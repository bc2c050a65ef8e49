"""`confirm-stopped`: close the meter of an instance on a person's word."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from costguard.core.decide import FINAL_STATES
from costguard.core.money import yuan_text
from costguard.daemon.load import newest_instance, open_interval
from costguard.daemon.metering import close_interval
from costguard.errors import EXIT_USAGE, UserError
from costguard.report.documents import find_job
from costguard.report.figures import time_text
from costguard.store.attest import attest
from costguard.store.events import add_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.daemon.context import Context


def confirm_stopped(context: Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """Close the running interval of `job`'s instance at the attested time `at` (RFC 3339).

    What was charged beyond it by assumption is given back by an adjustment that names the
    attestation. The job is asked to pause, if it was not yet: nothing runs on under it.
    """
    at_ms = _utc_ms(args.get("at"))
    now = context.clock.now()
    with context.store.write() as session:
        job = find_job(session, str(args.get("job")))
        instance = newest_instance(session, job.id)
        if instance is None or instance.provider_id is None:
            what = f"nothing was rented for {job.name!r}"
            raise UserError("nothing_rented", what, "confirm-stopped", "", EXIT_USAGE)
        attest(session, instance, at_ms, now.utc_ms)
        row = open_interval(session, instance.id, "running")
        posted = 0 if row is None else row.posted_micros
        if row is not None:
            why = "a person attested that it had stopped by then"
            ended_ms = max(at_ms, row.started_ms)
            close_interval(session, job, row, ended_ms, now, context.zone, why)
            posted = row.posted_micros - posted
        if job.wish == "run" and job.state not in FINAL_STATES:
            job.wish = "pause"
        text = f"a person says that it stopped at {time_text(at_ms)}; this is no proof"
        data = {"attested_stop_ms": at_ms, "posted_micros": posted}
        add_event(session, job.id, now.utc_ms, "stop_attested", text, data)
        return {
            "schema": "costguard.confirm_stopped/1",
            "job": job.name,
            "instance": instance.provider_id,
            "attested_at": time_text(at_ms),
            "proven": False,
            "adjusted_yuan": yuan_text(posted),
        }


def _utc_ms(value: object) -> int:
    """UTC milliseconds of an RFC 3339 time with its offset."""
    moment: datetime | None = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    if moment is None or moment.tzinfo is None:
        hint = "such as 2026-11-24T23:40:00+08:00"
        what = f"{value!r} is no time with an offset"
        raise UserError("bad_time", what, "--at", hint, EXIT_USAGE)
    return int(moment.astimezone(timezone.utc).timestamp() * 1000)
