"""At a daemon's start: whether the ledger still ends where it ended when it was last written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.head import HeadState, head_of

if TYPE_CHECKING:
    from costguard.daemon.context import Context

WORDS = {
    HeadState.MISSING: "the file ledger.head was missing and was begun anew: an earlier loss of "
    "the newest entries would not be seen",
    HeadState.UNREADABLE: "the file ledger.head cannot be read: a loss of the newest entries "
    "would not be seen",
    HeadState.CUT: "THE NEWEST ENTRIES OF THE LEDGER ARE GONE: see `costguard ledger verify`",
    HeadState.CHANGED: "THE NEWEST ENTRIES OF THE LEDGER WERE REPLACED: see "
    "`costguard ledger verify`",
}


def check_head(context: Context) -> HeadState:
    """Compare the kept head with the ledger, and say aloud what does not agree.

    The daemon goes on all the same: instances have to be guarded whatever happened to the books.
    """
    try:
        state = context.store.check_head()
        with context.store.read() as session:
            is_empty = head_of(session).entry_id == 0
        if state.is_sound or (state is HeadState.MISSING and is_empty):
            return state
        context.notify("alarm", "ledger", WORDS[state])
        with context.store.write() as session:
            at_ms = context.clock.now().utc_ms
            data = {"state": state.value, "loud": True}
            add_event(session, None, at_ms, "ledger_head", WORDS[state], data)
    except StoreUnavailable as error:
        context.notify("alarm", "ledger", f"its head could not be compared: {error}")
        return HeadState.UNREADABLE
    return state
