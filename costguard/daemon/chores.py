"""The scheduler's chores: slow looks at whole accounts, beside the loop and never in its way."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import select

from costguard.daemon.load import job_spec
from costguard.daemon.reconcile import reconcile
from costguard.daemon.run_outs import watch_run_outs
from costguard.daemon.strays import is_stray, parent_of, take_stray
from costguard.errors import UserError
from costguard.providers.base import ProviderError
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.models import Intent, Job
from costguard.store.restored import clear_if_listed, is_restored, note_listed, unlisted

if TYPE_CHECKING:
    from costguard.daemon.context import Context
    from costguard.notify.outbox import Outbox
    from costguard.providers.base import InstanceView

log = logging.getLogger("costguard.chores")

STRAY_WATCH_S = 600
TELL_S = 5
RECONCILE_S = 600
RUN_OUTS_S = 600


class Chores:
    """APScheduler with our settings: UTC, no piling up, and nothing lost to a late start."""

    def __init__(self, context: Context, outbox: Outbox | None = None) -> None:
        self._context = context
        self._outbox = outbox
        self._scheduler = BackgroundScheduler(
            timezone=timezone.utc,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        logging.getLogger("apscheduler").setLevel(logging.WARNING)

    def start(self) -> None:
        """Run the chores from now on."""
        now = datetime.fromtimestamp(self._context.clock.now().utc_ms / 1000, tz=timezone.utc)
        self._scheduler.add_job(
            self.watch_strays, "interval", seconds=STRAY_WATCH_S, next_run_time=now
        )
        self._scheduler.add_job(self.reconcile, "interval", seconds=RECONCILE_S)
        if self._outbox is not None:
            self._scheduler.add_job(self.tell, "interval", seconds=TELL_S)
        self._scheduler.add_job(self.watch_run_outs, "interval", seconds=RUN_OUTS_S)
        self._scheduler.start()

    def stop(self) -> None:
        """Stop without waiting for a chore that hangs on a platform."""
        self._scheduler.shutdown(wait=False)

    def tell(self) -> int:
        """Send what a person is to be told; how many messages were taken."""
        return 0 if self._outbox is None else self._outbox.run(self._context.clock.now().utc_ms)

    def watch_strays(self) -> list[str]:
        """Put instances with our tag that no job drives under guard; return their ids."""
        found: list[str] = []
        for name in self._providers():
            try:
                now = self._context.clock.now()
                views = self._context.provider(name).list_tagged(self._context.tag_prefix, now)
                found += [view.id for view in views if self._guard_stray(view)]
                self._note_listed(name)
            except (ProviderError, StoreUnavailable, UserError) as error:
                log.warning("strays on %s: %s", name, error)
        return found

    def _providers(self) -> list[str]:
        """Every platform that a job of ours has ever asked for an instance."""
        asked = select(Intent.job_id).where(Intent.kind == "create")
        try:
            with self._context.store.read() as session:
                query = select(Job)
                names: set[str] = set()
                if is_restored(session):  # jobs and accounts of which these books may know nothing
                    names = unlisted(session, self._context.accounts())
                else:
                    query = query.where(Job.id.in_(asked), Job.state != "released")
                jobs = session.scalars(query).all()
                return sorted(names | {job_spec(job).instance.provider for job in jobs})
        except StoreUnavailable as error:
            log.warning("strays: %s", error)
            return []

    def _note_listed(self, name: str) -> None:
        """After a restore: this account's instances are known again."""
        with self._context.store.read() as session:
            if not is_restored(session):
                return
        with self._context.store.write() as session:
            note_listed(session, name)
            jobs = session.scalars(select(Job)).all()
            names = {job_spec(job).instance.provider for job in jobs}
            if clear_if_listed(session, (*self._context.accounts(), *names)):
                now_ms = self._context.clock.now().utc_ms
                text = "every account was listed since the restore: leases are granted again"
                add_event(session, None, now_ms, "restored", text)

    def _guard_stray(self, view: InstanceView) -> bool:
        """Whether the instance is a stray; if so, it is now under guard, or reported."""
        with self._context.store.read() as session:
            if not is_stray(session, view):
                return False
            parent = parent_of(session, self._context, view)
            parent_id = None if parent is None else parent.id
        if parent_id is None:
            self._say("orphan", f"an instance of ours that no job here explains: {view.id}")
        else:
            why = "an instance of ours that no job drives"
            take_stray(self._context, parent_id, view, why)
        return True

    def reconcile(self) -> None:
        """Hold every instance's bill against the books."""
        reconcile(self._context)

    def watch_run_outs(self) -> None:
        """Warn of disks that a platform will delete, and of wallets that are nearly empty."""
        watch_run_outs(self._context)

    def _say(self, kind: str, text: str) -> None:
        self._context.notify("alarm", "account", text)
        with self._context.store.write() as session:
            add_event(session, None, self._context.clock.now().utc_ms, kind, text)
