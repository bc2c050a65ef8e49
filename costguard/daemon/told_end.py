"""How the end of a training reads among the events; or of an attempt that never began one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.core.exits import UNTOLD
from costguard.daemon import steps_lost
from costguard.store.events import add_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from costguard.store.models import Job


def tell_end(session: Session, job: Job, message: Mapping[str, Any], at_ms: int) -> None:
    """Add the event of an agent's `exit` message, with the steps that are lost by it.

    An attempt that was stopped before its training has no end of one, no exit code, and no steps.
    """
    code, signal = message.get("code"), message.get("signal")
    detail, seq = message.get("detail") or UNTOLD, message.get("seq")
    if job.launched_ms is None:
        what = f"no training began: {detail}"
        add_event(session, job.id, at_ms, "never_began", what, {"seq": seq})
        return
    what = f"training ended: exit code {code}"
    if signal is not None:
        what = f"training ended: signal {signal}"
    elif code is None:
        what = f"how the training ended was not seen: {detail}"
    more, lost = steps_lost.at_exit(session, job, message)
    data = {"seq": seq, "steps_lost": lost}
    add_event(session, job.id, at_ms, "training_ended", what + more, data)
