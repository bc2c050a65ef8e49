"""Switching a paused instance on again: the same one, under a lease, and never a second one.

A start call that is unclear is not repeated blindly: reads after it show what came of it. One
that the platform refuses for want of a card (normal after a pause) is tried again, more and more
rarely; meanwhile nothing is reserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from costguard.core.power import Power
from costguard.core.snapshot import Verdict
from costguard.daemon.host_keys import ON_ALREADY
from costguard.daemon.memory import Calls
from costguard.daemon.quiet import told_ms
from costguard.providers.base import Busy, NoCapacity, ProviderError, Refused
from costguard.store.events import add_event
from costguard.store.models import Instance, Intent, Job
from costguard.store.visits import begin_time

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.daemon.act import Actor

CAPACITY_RETRY_MS = (30_000, 60_000, 120_000, 300_000, 600_000)
ALREADY_ON = (Power.STARTING, Power.RUNNING)


def power_on(actor: Actor) -> bool:
    """Call the platform's start under the lease just granted; False where it was refused."""
    instance = actor.snap.instance
    assert instance is not None
    assert instance.provider_id is not None, "what was never rented cannot be switched on"
    sent = actor.now()
    key = _open_intent(actor, instance.id, sent)
    actor.memory.calls = Calls(last=sent)
    actor.memory.reads, actor.memory.read_at = [], None
    actor.memory.agent_until_ms = actor.memory.denied = None
    if instance.power in ALREADY_ON:
        _close_intent(actor, key, "done", ON_ALREADY)
        return True
    try:
        actor.provider.start(instance.provider_id)
    except (NoCapacity, Busy) as error:
        _wait(actor, key, error)
        return False
    except Refused as error:
        _close_intent(actor, key, "failed", str(error))
        if instance.lent:
            actor.memory.denied = error
            return False
        actor.conclude_now(Verdict("platform", f"the start was refused: {error}", {}, save=False))
        return False
    except ProviderError as error:
        _close_intent(actor, key, "unclear", str(error))
        actor.context.notify("warning", actor.snap.spec.name, f"the start is unclear: {error}")
        return True
    _close_intent(actor, key, "done", "accepted")
    return True


def _open_intent(actor: Actor, instance_id: int, sent: Moment) -> str:
    """The start is about to be called: from here on the instance counts as possibly running."""
    with actor.context.store.write() as session:
        row = session.get_one(Instance, instance_id)
        if row.stopped_seen_ms is not None:
            row.started_call_ms = sent.utc_ms
            row.host_key = row.timer_at_ms = row.agent_until_ms = (
                None  # another boot: nothing of the last one holds
            )
            begin_time(session, actor.job_id, sent)
        row.stopped_seen_ms = None
        row.last_call_utc_ms, row.last_call_boot_ms = sent.utc_ms, sent.boot_ms
        row.last_call_boot_id = sent.boot_id
        row.stop_calls, row.stop_accepted, row.was_on = 0, False, False
        earlier = select(func.count(Intent.id)).where(Intent.job_id == actor.job_id)
        key = f"start:{instance_id}:{session.scalar(earlier)}"
        session.add(
            Intent(
                job_id=actor.job_id,
                kind="start",
                key=key,
                state="open",
                created_ms=sent.utc_ms,
                detail="",
            )
        )
    return key


def _close_intent(actor: Actor, key: str, state: str, detail: str) -> None:
    now = actor.now()
    with actor.context.store.write() as session:
        intent = session.scalars(select(Intent).where(Intent.key == key)).one()
        intent.state, intent.closed_ms, intent.detail = state, now.utc_ms, detail
        session.get_one(Job, actor.job_id).retry_at_ms = None
        text = {"done": "switched on again", "failed": f"not switched on: {detail}"}
        if state in text:
            add_event(session, actor.job_id, now.utc_ms, "start_call", text[state])


def take_back(actor: Actor) -> bool:
    """Stop what waits for a card, and try again later; False where the platform did not take it."""
    instance = actor.snap.instance
    assert instance is not None
    assert instance.provider_id is not None, "only what was rented can wait"
    sent = actor.now()
    try:
        actor.provider.stop(instance.provider_id)
    except ProviderError as error:
        actor.context.notify("warning", actor.snap.spec.name, f"the start waits on: {error}")
        return False
    actor.memory.calls, actor.memory.waits = Calls(last=sent), False
    starts = select(Intent.key).where(Intent.job_id == actor.job_id, Intent.kind == "start")
    with actor.context.store.read() as session:
        key = session.scalars(starts.order_by(Intent.id.desc()).limit(1)).first()
    why = NoCapacity("the platform has queued it for a card that somebody else has")
    _wait(actor, key, why)
    return True


def _wait(actor: Actor, key: str | None, error: NoCapacity | Busy) -> None:
    """No card is free now, or another operation is under way: later, and later still."""
    if isinstance(error, NoCapacity):
        actor.memory.denied = error
    if key is not None:
        _close_intent(actor, key, "failed", str(error))
    now = actor.now()
    with actor.context.store.write() as session:
        job = session.get_one(Job, actor.job_id)
        refused = select(func.count(Intent.id)).where(
            Intent.job_id == job.id,
            Intent.kind == "start",
            Intent.state == "failed",
            Intent.created_ms >= (job.stage_since_ms or 0),
        )
        tries = session.scalar(refused) or 1
        wait_ms = CAPACITY_RETRY_MS[min(max(tries, 1), len(CAPACITY_RETRY_MS)) - 1]
        if isinstance(error, Busy):  # it says when, and is not the longer in coming for it
            wait_ms = told_ms(error, CAPACITY_RETRY_MS[0])
        job.retry_at_ms = now.utc_ms + wait_ms
        kind, what = "no_capacity", "no capacity to switch it on again"
        if isinstance(error, Busy):
            kind, what = "busy", "it cannot be switched on just now"
        text = f"{what}; next try in {wait_ms // 1000} s: {error}"
        add_event(session, job.id, now.utc_ms, kind, text)
    actor.context.notify("info", actor.snap.spec.name, text)
