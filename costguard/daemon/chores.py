"""The scheduler's chores: slow looks at whole accounts, beside the loop and never in its way."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from apscheduler.schedulers.background import BackgroundScheduler

from costguard.daemon.orphans import watch_orphans, watch_owed
from costguard.daemon.reconcile import reconcile
from costguard.daemon.run_outs import watch_run_outs

if TYPE_CHECKING:
    from costguard.daemon.context import Context
    from costguard.notify.outbox import Outbox

STRAY_WATCH_S = 600
WATCH_AGAIN_S = 15
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
        self._scheduler.add_job(self.watch_again, "interval", seconds=WATCH_AGAIN_S)
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
        """Find instances of ours that no job drives; return their ids."""
        return watch_orphans(self._context)

    def watch_again(self) -> list[str]:
        """The same of the accounts that are owed a look; nothing is asked where none is."""
        return watch_owed(self._context)

    def reconcile(self) -> None:
        """Hold every instance's bill against the books."""
        reconcile(self._context)

    def watch_run_outs(self) -> None:
        """Warn of disks that a platform will delete, and of wallets that are nearly empty."""
        watch_run_outs(self._context)
