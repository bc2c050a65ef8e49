"""The orphan watch: on every configured account, what bears our name and no job here drives.

Of this installation's: what a job here explains is put under guard and stopped; what none does is
said aloud each hour, and stopped where the config says `stop_orphans = true`. Another
installation's are reported, and never touched.

An account that could not be listed, or whose list could not be acted upon because nothing could be
written, is owed a look and listed again soon: a duplicate must not cost until the next round.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.daemon.accounts import LOCAL
from costguard.daemon.load import job_spec
from costguard.daemon.strays import is_stray, parent_of, take_stray
from costguard.errors import UserError
from costguard.providers.base import ProviderError, Unclear
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.models import Event, Intent, Job
from costguard.store.restored import clear_if_listed, is_restored, note_listed, unlisted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from costguard.daemon.context import Context
    from costguard.providers.base import InstanceView

log = logging.getLogger("costguard.chores")

EVERY_INSTALLATION = "costguard-"
SAY_AGAIN_MS = 3_600_000


def watch_orphans(context: Context) -> list[str]:
    """Look at every account; the ids of our own instances that no job drives."""
    return _watch(context, _accounts(context))


def watch_owed(context: Context) -> list[str]:
    """Look again at the accounts that are owed a look; their instances that no job drives."""
    accounts = sorted(context.owed)
    for name in accounts:
        left = context.owed.pop(name, 0) - 1
        if left > 0:
            context.owe(name, left)
    return _watch(context, accounts)


def _watch(context: Context, accounts: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in accounts:
        try:
            now = context.clock.now()
            for view in context.provider(name).list_tagged(EVERY_INSTALLATION, now):
                if not view.tag.startswith(context.tag_prefix):
                    _report_foreign(context, name, view)
                elif _guard(context, name, view):
                    found.append(view.id)
            _note_listed(context, name)
        except (ProviderError, StoreUnavailable, UserError) as error:
            log.warning("strays on %s: %s", name, error)
            if isinstance(error, (Unclear, StoreUnavailable)):  # a no is the same no soon
                context.owe(name)
    return found


def _accounts(context: Context) -> list[str]:
    """Every account of the config, and every one that a job has ever asked for an instance.

    The platform on this machine only where a job has: asking it would start it.
    """
    names = set(context.accounts()) - {LOCAL}
    asked = select(Intent.job_id).where(Intent.kind == "create")
    try:
        with context.store.read() as session:
            query = select(Job)
            if is_restored(session):  # jobs and accounts of which these books may know nothing
                names |= unlisted(session, context.accounts())
            else:
                query = query.where(Job.id.in_(asked), Job.state != "released")
            jobs = session.scalars(query).all()
            return sorted(names | {job_spec(job).instance.provider for job in jobs})
    except StoreUnavailable as error:
        log.warning("strays: %s", error)
        return []


def _note_listed(context: Context, name: str) -> None:
    """After a restore: this account's instances are known again."""
    with context.store.read() as session:
        if not is_restored(session):
            return
    with context.store.write() as session:
        note_listed(session, name)
        jobs = session.scalars(select(Job)).all()
        names = {job_spec(job).instance.provider for job in jobs}
        if clear_if_listed(session, (*context.accounts(), *names)):
            now_ms = context.clock.now().utc_ms
            text = "every account was listed since the restore: leases are granted again"
            add_event(session, None, now_ms, "restored", text)


def _guard(context: Context, account: str, view: InstanceView) -> bool:
    """Whether no job drives the instance; if so, it is now under guard, or reported."""
    with context.store.read() as session:
        if not is_stray(session, view):
            return False
        parent = parent_of(session, context, view)
        parent_id = None if parent is None else parent.id
    if parent_id is not None:
        take_stray(context, account, parent_id, view, "an instance of ours that no job drives")
    elif context.stops_orphans() and view.read.power.may_charge:
        take_stray(context, account, None, view, "an instance of ours that no job here explains")
    else:
        text = f"an instance of ours that no job here explains: {view.id} on {account}"
        _say_hourly(context, "alarm", "orphan", view.id, text)
    return True


def _report_foreign(context: Context, account: str, view: InstanceView) -> None:
    if view.read.power.may_charge:
        text = f"an instance of another installation may run on {account}: {view.id} ({view.tag})"
        _say_hourly(context, "info", "foreign", view.id, text)


def _say_hourly(context: Context, level: str, kind: str, instance_id: str, text: str) -> None:
    now_ms = context.clock.now().utc_ms
    with context.store.write() as session:
        said = select(Event.id).where(
            Event.kind == kind,
            Event.at_ms > now_ms - SAY_AGAIN_MS,
            Event.text.contains(f": {instance_id} "),
        )
        if session.scalars(said).first() is not None:
            return
        add_event(session, None, now_ms, kind, text, {"id": instance_id})
    context.notify(level, "account", text)
