"""Everything that the page of a report shows, read in one go so that its figures agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from costguard.report.explain import explain_document
from costguard.report.series import series
from costguard.report.spend import report_document
from costguard.report.status import status_document
from costguard.store.models import Job

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from sqlalchemy.orm import Session

PAGE_SCHEMA = "costguard.page/1"
JOBS_DRAWN = 12  # the newest; the table above them has every job


def page_document(
    session: Session, now_ms: int, zone: ZoneInfo, daemon_pid: int | None, by: str | None = None
) -> dict[str, Any]:
    """The report, and of the newest jobs the status, the verdict and what charts are drawn from."""
    status = status_document(session, now_ms, daemon_pid)
    newest = session.scalars(select(Job).order_by(Job.id.desc()).limit(JOBS_DRAWN)).all()
    return {
        "schema": PAGE_SCHEMA,
        "as_of": status["as_of"],
        "report": report_document(session, now_ms, zone, by),
        "jobs": [
            {
                "status": row,
                "explain": explain_document(session, job),
                "series": series(session, job),
            }
            for row, job in zip(status["jobs"], newest, strict=False)
        ],
        "jobs_left_out": max(len(status["jobs"]) - len(newest), 0),
    }
