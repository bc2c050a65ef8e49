"""The scheduler's chores: slow looks at whole accounts, beside the loop and never in its way."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import select

from costguard.core.money import yuan_text
from costguard.daemon.load import job_spec
from costguard.daemon.strays import is_stray, parent_of, take_stray
from costguard.providers.base import ProviderError
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.ledger import posted_micros
from costguard.store.models import Instance, Intent, Job

if TYPE_CHECKING:
    from costguard.daemon.context import Context
    from costguard.notify.outbox import Outbox
    from costguard.providers.base import InstanceView

log = logging.getLogger("costguard.chores")

STRAY_WATCH_S = 600
TELL_S = 5
RECONCILE_S = 600


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
            except (ProviderError, StoreUnavailable) as error:
                log.warning("strays on %s: %s", name, error)
        return found

    def _providers(self) -> list[str]:
        """Every platform that a job of ours has ever asked for an instance."""
        asked = select(Intent.job_id).where(Intent.kind == "create")
        try:
            with self._context.store.read() as session:
                query = select(Job).where(Job.id.in_(asked), Job.state != "released")
                jobs = session.scalars(query).all()
                return sorted({job_spec(job).instance.provider for job in jobs})
        except StoreUnavailable as error:
            log.warning("strays: %s", error)
            return []

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
        """Read each instance's bill and say where the books and the bill differ."""
        try:
            with self._context.store.read() as session:
                rows = session.scalars(select(Instance).where(Instance.released_ms.is_(None))).all()
        except StoreUnavailable as error:
            log.warning("reconcile: %s", error)
            return
        for row in rows:
            if row.provider_id is None:
                continue
            try:
                bill = self._context.provider(row.provider).bill_micros(row.provider_id)
                if bill is not None:
                    self._note_bill(row.id, bill)
            except (ProviderError, StoreUnavailable) as error:
                log.warning("reconcile %s: %s", row.provider_id, error)

    def _note_bill(self, instance_id: int, bill: int) -> None:
        now = self._context.clock.now()
        with self._context.store.write() as session:
            row = session.get_one(Instance, instance_id)
            row.bill_micros, row.bill_read_ms = bill, now.utc_ms
            posted = posted_micros(session, instance_id=instance_id)
            if row.stopped_seen_ms is not None and bill > posted:
                text = f"the bill is {yuan_text(bill - posted)} yuan above the books"
                add_event(session, row.job_id, now.utc_ms, "drift", text)

    def _say(self, kind: str, text: str) -> None:
        self._context.notify("alarm", "account", text)
        with self._context.store.write() as session:
            add_event(session, None, self._context.clock.now().utc_ms, kind, text)
