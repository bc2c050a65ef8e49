"""The scheduler's chores: slow looks at whole accounts, beside the loop and never in its way."""

from __future__ import annotations

import logging
from datetime import timezone
from typing import TYPE_CHECKING

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import select

from costguard.core.money import yuan_text
from costguard.providers.base import ProviderError
from costguard.store.database import StoreUnavailable
from costguard.store.events import add_event
from costguard.store.ledger import posted_micros
from costguard.store.models import Instance, LedgerEntry, PowerInterval

if TYPE_CHECKING:
    from costguard.daemon.context import Context

log = logging.getLogger("costguard.chores")

ORPHAN_WATCH_S = 3_600
RECONCILE_S = 600


class Chores:
    """APScheduler with our settings: UTC, no piling up, and nothing lost to a late start."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._scheduler = BackgroundScheduler(
            timezone=timezone.utc,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        logging.getLogger("apscheduler").setLevel(logging.WARNING)

    def start(self) -> None:
        """Run the chores from now on."""
        self._scheduler.add_job(self.watch_orphans, "interval", seconds=ORPHAN_WATCH_S)
        self._scheduler.add_job(self.reconcile, "interval", seconds=RECONCILE_S)
        self._scheduler.start()

    def stop(self) -> None:
        """Stop without waiting for a chore that hangs on a platform."""
        self._scheduler.shutdown(wait=False)

    def watch_orphans(self) -> list[str]:
        """Report instances with our tag that no instance row of ours knows; return their ids."""
        try:
            with self._context.store.read() as session:
                rows = session.scalars(select(Instance)).all()
                known = {row.provider_id for row in rows}
                tags = {row.tag for row in rows}
                providers = {row.provider for row in rows}
            orphans = []
            for name in sorted(providers):
                now = self._context.clock.now()
                found = self._context.provider(name).list_tagged(self._context.tag_prefix, now)
                orphans += [v.id for v in found if v.id not in known and v.tag not in tags]
            for orphan in orphans:
                self._say("orphan", f"an instance of ours that no job owns: {orphan}")
        except (ProviderError, StoreUnavailable) as error:
            log.warning("orphan watch: %s", error)
            return []
        return orphans

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
            own = select(PowerInterval.id).where(PowerInterval.instance_id == instance_id)
            posted = posted_micros(session, LedgerEntry.interval_id.in_(own))
            if row.stopped_seen_ms is not None and bill > posted:
                text = f"the bill is {yuan_text(bill - posted)} yuan above the books"
                add_event(session, row.job_id, now.utc_ms, "drift", text)

    def _say(self, kind: str, text: str) -> None:
        self._context.notify("alarm", "account", text)
        with self._context.store.write() as session:
            add_event(session, None, self._context.clock.now().utc_ms, kind, text)
