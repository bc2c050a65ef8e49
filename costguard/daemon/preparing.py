"""What making an instance ready has shown: first contact's table, and what is being installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.core.contact import OK, UNKNOWN, WARN
from costguard.store.events import add_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.daemon.memory import JobMemory
    from costguard.store.models import Job

TELL_EVERY_S = 30
UNDER_WAY = "installing"


def note_preparing(memory: JobMemory, message: Mapping[str, Any]) -> None:
    """Keep a `contact` or `install` message until it is recorded; of progress one in 30 s."""
    if message.get("t") == "install":
        before, memory.install = memory.install, None
        if message.get("state") == UNDER_WAY:
            memory.install = message
            if before is not None and _seconds(message) < _seconds(memory.install_told) + (
                TELL_EVERY_S
            ):
                return
            memory.install_told = message
    memory.preparing.append(dict(message))


def record_preparing(session: Session, job: Job, memory: JobMemory, now: Moment) -> None:
    """The events of what was noted since the last pass; the phase shows an installation."""
    job.phase = memory.phase
    for message in memory.preparing:
        for kind, text in told(message):
            add_event(session, job.id, now.utc_ms, kind, text, _data(message))


def told(message: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Kind and text of each event that a message is worth."""
    if message.get("t") == "contact":
        return _contact(message)
    state, line = message.get("state"), str(message.get("line") or "")
    seconds = _seconds(message)
    if state == UNDER_WAY and seconds < 1:
        packages = ", ".join(map(str, message.get("packages") or []))
        within = message.get("within_s")
        bound = (
            f" (for {round(within / 60)} min at most)" if isinstance(within, int | float) else ""
        )
        text = f"installing on the instance what is missing there: {packages}{bound}"
        return [("installing", text)]
    if state == UNDER_WAY:
        return [("installing", f"still installing after {seconds} s: {line}")]
    if state == "installed":
        return [("installed", f"installed in {seconds} s: {message.get('python')}")]
    if state == "failed":
        return [("install_failed", f"could not be installed: {line}")]
    return []


def _contact(message: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [row for row in message.get("rows") or [] if isinstance(row, dict)]
    fine = sum(row.get("verdict") == OK for row in rows)
    unknown = [str(row.get("check")) for row in rows if row.get("verdict") == UNKNOWN]
    more = f"; unknown: {', '.join(unknown)}" if unknown else ""
    events = [("first_contact", f"first contact: {fine} of {len(rows)} checks are fine{more}")]
    for row in rows:
        if row.get("verdict") == WARN:  # what failed is installed, or refused in words of its own
            hint = f" ({row['hint']})" if row.get("hint") else ""
            events.append(("contact_warning", f"{row.get('check')}: {row.get('seen')}{hint}"))
    return events


def _data(message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("t") == "contact":
        return {"rows": message.get("rows"), "verdict": message.get("verdict")}
    return {key: message.get(key) for key in ("state", "packages", "python", "code", "seconds")}


def _seconds(message: Mapping[str, Any] | None) -> int:
    seconds = 0 if message is None else message.get("seconds")
    return int(seconds) if isinstance(seconds, (int, float)) else 0
