"""Switching an instance off: the one call that is made whether or not it can be written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from costguard.daemon.memory import Calls
from costguard.providers.base import ProviderError
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.models import Instance, Intent

if TYPE_CHECKING:
    from costguard.daemon.act import Actor


def power_off(actor: Actor) -> None:
    """Call the platform's stop. The intent is written if it can be; the call is made anyway."""
    instance = actor.snap.instance
    assert instance is not None
    assert instance.provider_id is not None, "nothing to stop without an instance"
    intent_id = _open_intent(actor, instance.id)
    sent = actor.now()
    calls = actor.memory.calls
    actor.memory.calls = Calls(sent, calls.stop_calls + 1, False, calls.was_on)
    outcome = "done"
    try:
        actor.provider.stop(instance.provider_id)
        actor.memory.calls.stop_accepted = True
    except ProviderError as error:
        outcome = f"unclear: {error}"
        actor.context.notify("alarm", actor.snap.spec.name, f"the stop call failed: {error}")
    _close_intent(actor, instance.id, intent_id, outcome)


def _open_intent(actor: Actor, instance_id: int) -> int | None:
    now = actor.now()
    try:
        with actor.context.store.write() as session:
            earlier = select(func.count(Intent.id)).where(Intent.job_id == actor.job_id)
            intent = Intent(
                job_id=actor.job_id,
                kind="stop",
                key=f"stop:{instance_id}:{session.scalar(earlier)}",
                state="open",
                created_ms=now.utc_ms,
                detail="",
            )
            session.add(intent)
            session.flush()
            return intent.id
    except StoreUnavailable as error:
        actor.context.notify("alarm", actor.snap.spec.name, f"stopping without a record: {error}")
        return None


def _close_intent(actor: Actor, instance_id: int, intent_id: int | None, outcome: str) -> None:
    calls = actor.memory.calls
    now = actor.now()
    try:
        with actor.context.store.write() as session:
            row = session.get_one(Instance, instance_id)
            note_calls(row, calls)
            text = "the stop call was accepted" if calls.stop_accepted else outcome
            add_event(session, actor.job_id, now.utc_ms, "stop_call", text)
            intent = session.get(Intent, intent_id) if intent_id is not None else None
            if intent is not None:
                intent.state = "done" if calls.stop_accepted else "unclear"
                intent.closed_ms, intent.detail = now.utc_ms, outcome
    except StoreUnavailable as error:
        actor.context.notify("alarm", actor.snap.spec.name, f"stop not recorded: {error}")


def note_calls(row: Instance, calls: Calls) -> None:
    """Write our calls into the instance's row."""
    if calls.last is not None:
        row.last_call_utc_ms = calls.last.utc_ms
        row.last_call_boot_ms = calls.last.boot_ms
        row.last_call_boot_id = calls.last.boot_id
    row.stop_calls, row.stop_accepted = calls.stop_calls, calls.stop_accepted
    row.was_on = calls.was_on
