"""Renting: at most one instance for a job, whatever the create call comes to.

1. The intent and the instance's row, with a tag of ours, are committed.
2. The platform is called once.
3. The outcome is recorded: rented, refused, or unclear.
4. An unclear call is resolved by listing our tag, never by calling again blindly. A second
   instance that the platform made of one call is put under guard as a stray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core.moment import Moment, elapsed_ms
from costguard.core.snapshot import VISIBLE_WITHIN_MS
from costguard.daemon.asking import ahead_ms, create_instance, in_our_time, request_for
from costguard.daemon.load import newest_instance, open_lease
from costguard.daemon.memory import Calls
from costguard.daemon.quiet import note_quiet, quiet_ms, told_ms
from costguard.daemon.strays import take_stray
from costguard.providers.base import (
    Busy,
    InstanceView,
    NoCapacity,
    ProviderError,
    Refused,
    Unclear,
)
from costguard.store.events import add_event
from costguard.store.ledger import settle
from costguard.store.models import BY_HAND, Instance, Intent, Job
from costguard.store.tariffs import set_tariff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.daemon.act import Actor
    from costguard.providers.base import ProviderFacts

CAPACITY_RETRY_MS = 30_000
UNCLEAR_LOOKS = 2  # at the account, once an unclear call is resolved: the last is late enough
UNLISTED_RETRY_MS = 5_000
TIMER_SLACK_MS = 1_000  # some platforms keep whole seconds


def create(actor: Actor, timer_after_ms: int) -> bool:
    """Rent an instance under the lease just granted; whether the platform said yes."""
    wish = actor.snap.spec.instance
    tariff = actor.snap.tariff
    assert tariff is not None, "a lease is priced before anything is rented"
    sent = actor.now()
    with actor.context.store.write() as session:
        lease = open_lease(session, actor.job_id)
        assert lease is not None, "nothing is rented without a lease"
        # Counted from the reservation, not from this call: it must not lie beyond what is paid.
        timer_at_ms = lease.started_utc_ms + timer_after_ms
        count = len(session.scalars(select(Intent.id).where(Intent.job_id == actor.job_id)).all())
        tag = f"{actor.context.tag_prefix}{actor.job_id}-{count + 1}"
        row = Instance(
            job_id=actor.job_id,
            provider=wish.provider,
            tag=tag,
            gpu=wish.gpu,
            guest_stop=guest_stop_of(actor.provider.facts),
            last_call_utc_ms=sent.utc_ms,
            last_call_boot_ms=sent.boot_ms,
            last_call_boot_id=sent.boot_id,
            started_call_ms=sent.utc_ms,
            timer_at_ms=timer_at_ms if actor.provider.facts.timer_is_fixed else None,
        )
        set_tariff(row, tariff)
        session.add(row)
        session.add(
            Intent(
                job_id=actor.job_id,
                kind="create",
                key=f"create:{tag}",
                state="open",
                created_ms=sent.utc_ms,
                detail="",
            )
        )
    actor.memory.calls = Calls(last=sent)
    actor.memory.reads = []
    key = actor.context.client_public_key
    request = request_for(actor.snap.spec, key, tag, timer_at_ms)
    try:
        view = create_instance(actor.provider, request, sent)
    except Unclear as error:
        actor.context.notify("warning", actor.snap.spec.name, f"create is unclear: {error}")
        note_quiet(actor.memory, error, actor.now())
        _close_intent(actor, tag, "unclear", str(error))
        return False
    except Refused as error:
        passes = isinstance(error, (NoCapacity, Busy))
        _give_up(actor, tag, error, told_ms(error, CAPACITY_RETRY_MS) if passes else None)
        return False
    adopt(actor, tag, view)
    return True


def guest_stop_of(facts: ProviderFacts) -> str:
    """What a power-off from inside is worth here, as the instance's row keeps it.

    `by_hand` where nobody but a person stops the meter, from outside or from inside; `given` where
    the command is the user's own: it will be run, and what it does is theirs to know.
    """
    if not facts.can_stop:
        return BY_HAND
    if facts.in_guest_stop is None:
        return "none"
    if facts.in_guest_stop_proven:
        return "proven"
    return "given" if facts.in_guest_stop_given else "unproven"


def is_armed(back_ms: int | None, wanted_ms: int, step_ms: int) -> bool:
    """Whether a platform's timer reads back the time asked for, at most its own step earlier.

    Earlier ends a run too soon, which costs nothing; later would let it run past what is reserved.
    """
    early_ms = max(step_ms, TIMER_SLACK_MS)
    return back_ms is not None and wanted_ms - early_ms <= back_ms <= wanted_ms + TIMER_SLACK_MS


def adopt(actor: Actor, tag: str, view: InstanceView) -> None:
    """Write down what was rented: from here on the instance is known by the platform's id."""
    now = actor.now()
    with actor.context.store.write() as session:
        row = session.scalars(select(Instance).where(Instance.tag == tag)).one()
        row.provider_id, row.power = view.id, view.read.power.value
        row.gpu, row.created_ms = view.gpu, view.created_ms
        set_tariff(row, view.tariff)
        if not actor.provider.facts.timer_is_fixed:
            row.timer_at_ms = view.read.timer_at_ms
        intent = session.scalars(select(Intent).where(Intent.key == f"create:{tag}")).one()
        intent.state, intent.closed_ms, intent.detail = "done", now.utc_ms, view.id
        lease = open_lease(session, actor.job_id)
        grace_ms = actor.snap.spec.runs[actor.snap.stage].save_grace_ms
        wanted_ms = 0 if lease is None else lease.end_utc_ms + grace_ms
        step_ms = actor.provider.facts.timer_step_ms
        if lease is not None and is_armed(view.read.timer_at_ms, wanted_ms, step_ms):
            lease.armed_end_utc_ms = lease.end_utc_ms
        add_event(session, actor.job_id, now.utc_ms, "rented", f"rented {view.gpu}: {view.id}")
    actor.memory.read_at = None  # read it at once


def resolve_create(actor: Actor) -> None:
    """Find our tag on the platform: take it over, or learn that nothing was made."""
    now = actor.now()
    if quiet_ms(actor.memory, now) > 0:
        return
    with actor.context.store.read() as session:
        row = newest_instance(session, actor.job_id)
    assert row is not None, "an unclear create has left a row"
    try:
        found = actor.provider.list_tagged(row.tag, now)
    except ProviderError as error:
        actor.context.notify("warning", actor.snap.spec.name, f"not listed yet: {error}")
        actor.memory.resolving_since = None  # absence must be seen, not supposed
        note_quiet(actor.memory, error, now)
        return
    mine = sorted((view for view in found if view.tag == row.tag), key=lambda v: v.created_ms or 0)
    # Another one may be shown only later: the account is looked at closely for a while.
    actor.context.owe(actor.snap.spec.instance.provider, UNCLEAR_LOOKS)
    if mine:
        adopt(actor, row.tag, in_our_time(mine[0], ahead_ms(actor.provider, now)))
        _take_doubles(actor, mine[1:])
        return
    since = actor.memory.resolving_since or now
    actor.memory.resolving_since = since
    if elapsed_ms(since, now) >= VISIBLE_WITHIN_MS:
        gone = Refused("the platform never listed it: nothing was rented")
        _give_up(actor, row.tag, gone, again_ms=UNLISTED_RETRY_MS)
        actor.memory.resolving_since = None


def _take_doubles(actor: Actor, doubles: Sequence[InstanceView]) -> None:
    """Put further instances of one call under guard; if it fails, the watch finds them again."""
    account = actor.snap.spec.instance.provider
    for double in doubles:
        why = "the platform made a second instance of one call"
        take_stray(actor.context, account, actor.job_id, double, why)


def _give_up(actor: Actor, tag: str, error: Refused, again_ms: int | None) -> None:
    """Nothing was rented: settle the lease, forget the row; try `again_ms` later, or end."""
    now = actor.now()
    with actor.context.store.write() as session:
        job = session.get_one(Job, actor.job_id)
        row = session.scalars(select(Instance).where(Instance.tag == tag)).one()
        session.delete(row)
        intent = session.scalars(select(Intent).where(Intent.key == f"create:{tag}")).one()
        intent.state, intent.closed_ms, intent.detail = "failed", now.utc_ms, str(error)
        lease = open_lease(session, job.id)
        if lease is not None:
            settle(session, job, lease, now.utc_ms, actor.month(now))
        job.retry_at_ms = None if again_ms is None else now.utc_ms + again_ms
        kind = "no_capacity" if isinstance(error, NoCapacity) else "create_refused"
        add_event(session, job.id, now.utc_ms, kind, str(error))
        if again_ms is None:
            refuse(job, now, str(error))
    level = "alarm" if again_ms is None else "info"
    actor.context.notify(level, actor.snap.spec.name, f"nothing rented: {error}")


def refuse(job: Job, now: Moment, why: str) -> None:
    """End a job for which nothing can be rented or adopted, with the platform's word for it."""
    job.pause_reason = "platform"
    job.verdict_text = why
    job.verdict_json = "{}"
    job.verdict_utc_ms, job.verdict_boot_ms = now.utc_ms, now.boot_ms
    job.verdict_boot_id = now.boot_id


def _close_intent(actor: Actor, tag: str, state: str, detail: str) -> None:
    with actor.context.store.write() as session:
        intent = session.scalars(select(Intent).where(Intent.key == f"create:{tag}")).one()
        intent.state, intent.detail = state, detail
