"""Adopting: an instance that a person made elsewhere becomes a job's, under a lease, once.

Nothing is asked of the platform but a look, so that a daemon killed at any point adopts once: the
instance's row and the word that it was adopted are one transaction. What is on is metered from
then on; what is off is switched on as any paused instance is. A job that has ended and drove the
same machine before lets go of it, or it would stop it under the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core.decide import FINAL_STATES
from costguard.core.power import Power
from costguard.daemon.host_keys import unknown_key_text
from costguard.daemon.let_go import HANDED_OVER, rent_instead
from costguard.daemon.load import open_lease
from costguard.daemon.metering import close_disk, close_running, open_taken_over
from costguard.daemon.rent import guest_stop_of, refuse
from costguard.errors import EXIT_REFUSED, UserError
from costguard.providers.base import Absent, ProviderError, Refused
from costguard.store.events import add_event
from costguard.store.ledger import settle
from costguard.store.models import Instance, Intent, Job
from costguard.store.tariffs import set_tariff

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.core.moment import Moment
    from costguard.core.spec import JobSpec
    from costguard.daemon.act import Actor
    from costguard.daemon.context import Context
    from costguard.providers.base import InstanceView, Provider

LOOK_AGAIN_MS = 15_000
ON = (Power.STARTING, Power.RUNNING)


def check_adoption(
    context: Context, provider: Provider, spec: JobSpec, job_id: int, now: Moment
) -> None:
    """UserError where no instance can be made for the job, or the one it names is not to be had."""
    wanted, place = spec.instance.instance_id, "[instance] id"
    if wanted is None:
        if provider.facts.can_create:
            return
        what = f"{provider.facts.name} makes no instances: a person does, in its console"
        hint = 'adopt one: id = "…"'
        raise UserError("cannot_create", what, place, hint, EXIT_REFUSED)
    try:
        view = provider.read(wanted, now)
    except ProviderError as error:
        what = f"the instance {wanted} cannot be looked at: {error}"
        raise UserError("not_adoptable", what, place, "check its id and the account") from error
    with context.store.read() as session:
        known = session.scalars(select(Instance).where(Instance.job_id == job_id)).first()
        if known is not None:
            return  # it is this job's already
        why = _unfit(view) or _driven(session, spec.instance.provider, view.id, job_id)
    if why is None and view.read.power is Power.STOPPED and not provider.facts.can_resume:
        why = f"{view.id} is off, and only you can switch it on{_at(provider)}"
    if why is None and view.ssh is not None and not view.ssh.host_keys:
        why = unknown_key_text(spec.instance.provider, view.id)
    if why is not None:
        hint = "adopt another one, or mend that"
        raise UserError("not_adoptable", why, place, hint, EXIT_REFUSED)


def adopt_existing(actor: Actor) -> bool:
    """Take over the instance that the job file names, under the lease just granted."""
    wish = actor.snap.spec.instance
    assert wish.instance_id is not None, "only a named instance is adopted"
    try:
        view = actor.provider.read(wish.instance_id, actor.now())
    except (Absent, Refused) as error:
        return _not_to_be_had(actor, str(error))
    except ProviderError as error:
        return _put_off(actor, f"not adopted yet: {error}", LOOK_AGAIN_MS)
    unfit = _unfit(view)
    if unfit is not None:
        return _not_to_be_had(actor, unfit)
    power = view.read.power
    if power not in (*ON, Power.STOPPED):
        text = f"not adopted yet: {view.id} is neither on nor off ({power.value})"
        return _put_off(actor, text, LOOK_AGAIN_MS)
    now = actor.now()
    with actor.context.store.write() as session:
        driven = _driven(session, wish.provider, view.id, actor.job_id)
        if driven is None:
            _let_go(session, wish.provider, view.id, actor, now)
            _take_over(session, actor, view, now)
    if driven is not None:
        return _not_to_be_had(actor, driven)
    actor.memory.read_at = None  # read it at once
    return True


def is_adopted(session: Session, instance: Instance) -> bool:
    """Whether a person had made it: what it was billed before is none of the job's."""
    query = select(Intent.id).where(Intent.key == f"adopt:{instance.tag}")
    return session.scalars(query).first() is not None


def _unfit(view: InstanceView) -> str | None:
    if view.read.power is Power.RELEASED:
        return f"{view.id} was given back: there is nothing to adopt"
    return view.unfit


def _driven(session: Session, provider: str, provider_id: str, job_id: int) -> str | None:
    """That another unfinished job here drives the instance, in a sentence."""
    query = (
        select(Job.name)
        .join(Instance, Instance.job_id == Job.id)
        .where(Instance.provider == provider, Instance.provider_id == provider_id)
        .where(Instance.released_ms.is_(None), Job.id != job_id)
        .where(Job.state.not_in(FINAL_STATES))
    )
    name = session.scalars(query).first()
    return None if name is None else f"{provider_id} is driven by the job {name}"


def _let_go(session: Session, provider: str, provider_id: str, actor: Actor, now: Moment) -> None:
    """Have jobs that have ended forget the machine: from now on it is another one's."""
    query = select(Instance).where(
        Instance.provider == provider,
        Instance.provider_id == provider_id,
        Instance.released_ms.is_(None),
        Instance.job_id != actor.job_id,
    )
    for row in session.scalars(query).all():
        job = session.get_one(Job, row.job_id)
        had = {"state": job.state, "hold_micros": job.hold_micros}
        row.released_ms, job.hold_micros, job.state = now.utc_ms, 0, "released"
        close_running(session, job, row, now, actor.context.zone)
        close_disk(session, row, now.utc_ms)
        text = f"its instance is driven by the job {actor.snap.spec.name} from now on"
        add_event(session, job.id, now.utc_ms, HANDED_OVER, text, had)


def _take_over(session: Session, actor: Actor, view: InstanceView, now: Moment) -> None:
    is_off = view.read.power is Power.STOPPED
    count = len(session.scalars(select(Intent.id).where(Intent.job_id == actor.job_id)).all())
    tag = f"{actor.context.tag_prefix}{actor.job_id}-{count + 1}"
    row = Instance(
        job_id=actor.job_id,
        provider=actor.snap.spec.instance.provider,
        provider_id=view.id,
        tag=tag,  # names our folder on its disk; the instance itself bears what it bore
        gpu=view.gpu,
        power=view.read.power.value,
        guest_stop=guest_stop_of(actor.provider.facts),
        created_ms=now.utc_ms,  # its disk is the job's cost from here on, not from its making
        timer_at_ms=view.read.timer_at_ms,
        stopped_seen_ms=now.utc_ms if is_off else None,
    )
    set_tariff(row, view.tariff)
    session.add(row)
    session.add(
        Intent(
            job_id=actor.job_id,
            kind="adopt",
            key=f"adopt:{tag}",
            state="done",
            created_ms=now.utc_ms,
            closed_ms=now.utc_ms,
            detail=view.id,
        )
    )
    job = session.get_one(Job, actor.job_id)
    job.retry_at_ms = None
    session.flush()
    open_taken_over(session, row, view.read)
    text = f"adopted {view.gpu or 'the instance'}: {view.id}, which is {view.read.power.value}"
    add_event(session, actor.job_id, now.utc_ms, "adopted", text)


def _not_to_be_had(actor: Actor, why: str) -> bool:
    """It is another's by now, or gone: the end of a job that named it, else a new one is rented."""
    if not actor.snap.spec.instance.reused:
        return _put_off(actor, f"not adopted: {why}", None)
    why_not = rent_instead(actor, why)
    if why_not is None:
        return False
    return _put_off(actor, f"not adopted: {why}; {why_not}", LOOK_AGAIN_MS)


def _put_off(actor: Actor, text: str, again_ms: int | None) -> bool:
    """Nothing was taken over: settle what was reserved; look again later, or end the job."""
    now = actor.now()
    with actor.context.store.write() as session:
        job = session.get_one(Job, actor.job_id)
        lease = open_lease(session, job.id)
        if lease is not None:
            settle(session, job, lease, now.utc_ms, actor.month(now))
        job.retry_at_ms = None if again_ms is None else now.utc_ms + again_ms
        add_event(session, job.id, now.utc_ms, "not_adopted", text)
        if again_ms is None:
            refuse(job, now, text)
    actor.context.notify("alarm" if again_ms is None else "info", actor.snap.spec.name, text)
    return False


def _at(provider: Provider) -> str:
    place = provider.facts.console_url
    return f", at {place}" if place else ""
