"""A home with one job and an outbox, and the time that goes by in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from costguard.notify.outbox import Outbox
from costguard.settings import NotifySettings
from costguard.store.events import add_event
from costguard.store.models import Delivery, Job, PowerInterval
from tests.store.rows import add_interval, add_job, charge

if TYPE_CHECKING:
    from costguard.notify.channels import Channel
    from costguard.store.database import Store

ZONE = ZoneInfo("Asia/Shanghai")
NOON_MS = 1_795_579_200_000  # 2026-11-25T12:00 in Shanghai
HOUR_MS = 3_600_000


class Home:
    """A database with one job, an outbox, and the time."""

    def __init__(self, store: Store, channels: list[Channel], **settings: Any) -> None:
        self.store = store
        self.channels = channels
        self.settings = NotifySettings.model_validate({"coalesce_s": 30, **settings})
        self.now_ms = NOON_MS
        with store.write() as session:
            job = add_job(session, "kefu", cap=80)
            self.job_id, self.interval_id = job.id, add_interval(session, job).id
        self.outbox = self.new_outbox()
        self.outbox.run(self.now_ms)  # what happened until now is history

    def new_outbox(self) -> Outbox:
        """As a daemon has it that was just started."""
        return Outbox(self.store, lambda: self.channels, lambda: self.settings, ZONE)

    def event(self, kind: str, said: str = "", data: Any = None) -> None:
        """The daemon writes something down."""
        with self.store.write() as session:
            add_event(session, self.job_id, self.now_ms, kind, said, data)

    def run(self, after_s: float = 0) -> int:
        """Time goes by, and the chore comes round."""
        self.now_ms += int(after_s * 1_000)
        return self.outbox.run(self.now_ms)

    def spend(self, yuan: int) -> None:
        """Bring what the job has spent up to so much."""
        with self.store.write() as session:
            job = session.get_one(Job, self.job_id)
            charge(session, job, session.get_one(PowerInterval, self.interval_id), None, yuan)

    def end(self, state: str, reason: str, why: str = "") -> None:
        """The job ends, as a pass of the daemon writes it."""
        with self.store.write() as session:
            job = session.get_one(Job, self.job_id)
            job.state, job.pause_reason, job.verdict_text = state, reason, why
        self.event("state", state)

    @property
    def deliveries(self) -> list[Delivery]:
        """Every delivery, oldest first."""
        with self.store.read() as session:
            return session.query(Delivery).order_by(Delivery.notice_id, Delivery.channel).all()

    @property
    def states(self) -> list[str]:
        """The state of each delivery."""
        return [each.state for each in self.deliveries]
