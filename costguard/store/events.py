"""Events: what a person may want to read later, written in the caller's transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from costguard.store.models import Event

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def add_event(
    session: Session, job_id: int | None, at_ms: int, kind: str, text: str, data: Any = None
) -> None:
    """Append one event. `kind` is a stable word, `text` a sentence, `data` what it rests on."""
    session.add(
        Event(
            job_id=job_id,
            at_ms=at_ms,
            kind=kind,
            text=text,
            data_json=json.dumps(data if data is not None else {}, ensure_ascii=False),
        )
    )
