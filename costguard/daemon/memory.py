"""What the daemon holds of one job between passes: a cache of the database, and what it owes it.

Everything here is rebuilt from the database after a restart. While the database cannot be
written (disk full), it keeps what was seen, so that an instance is stopped all the same and the
books are brought up to date later.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from costguard.core.meter import shows_nothing
from costguard.core.power import Power
from costguard.core.snapshot import LinkFacts, Snapshot, TrainingFacts, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costguard.core.moment import Moment
    from costguard.core.power import PowerRead
    from costguard.core.tariff import Tariff
    from costguard.providers.base import InstanceView, Refused, SshDetails
    from costguard.remote.link import Link

READS_KEPT = 8


@dataclass
class Calls:
    """Our start and stop calls to the platform, as far as the proof of a stop needs them."""

    last: Moment | None = None
    stop_calls: int = 0
    stop_accepted: bool = False
    was_on: bool = False


@dataclass
class JobMemory:
    """One job's memory; touched only by that job's own pass."""

    stage: int = 0
    attempt: int = 0
    training: TrainingFacts = field(default_factory=TrainingFacts)
    reads: list[PowerRead] = field(default_factory=list)
    calls: Calls = field(default_factory=Calls)
    link: Link | None = None
    link_facts: LinkFacts = field(default_factory=LinkFacts)
    link_key: str = ""
    holds: bool = False  # the link is a visit's: its agent holds the instance and trains nothing
    ssh: SshDetails | None = None
    tariff: Tariff | None = None
    read_at: Moment | None = None
    absent_since: Moment | None = None
    fresh: InstanceView | None = None  # the platform's answer of this pass
    gone: PowerRead | None = None  # this pass found it absent, and for long enough to believe it
    asked: bool = False  # the platform was asked in this pass
    unsaved: list[dict[str, Any]] = field(default_factory=list)  # messages not yet in the database
    verdict: tuple[Verdict, Moment] | None = None  # given, and not yet in the database
    pulling: set[int] = field(default_factory=set)
    pull_failed: set[int] = field(default_factory=set)
    snapshot: Snapshot | None = None  # the last one that could be loaded
    resolving_since: Moment | None = None
    quiet_until: Moment | None = None  # the platform wants to be left alone for so long
    waits: bool = False  # told to start, it waits for a card; nothing has run since
    denied: Refused | None = None  # what the platform said to the last start call, if it was no
    cardless: int = 0  # so many reads in a row that showed it on without a card
    pulled: list[dict[str, Any]] = field(default_factory=list)  # downloads not yet recorded
    store_alarmed: bool = False
    off_before: Moment | None = (
        None  # seen off before this look, or before the first that showed it on
    )
    off_after: Moment | None = None  # seen off again, after it was on: that is not in them either
    waited: Moment | None = None  # seen waiting for a card, so not charged
    shown_on: bool = False  # the platform showed it on, and that is not in the books yet
    unmetered: bool = False  # the platform was asked since the books were last brought up to it
    breach: bool = False  # as the database has it
    forecast_at: Moment | None = None
    forecast_json: str | None = None  # the last one that was reckoned, not yet in the database
    is_short: bool = False  # it was said that the caps will not reach
    shown_key: dict[str, Any] | None = None  # a host key that was believed, not yet in its row
    agent_until_ms: int | None = None  # the end of the lease that the agent was last granted
    keeps_timer: bool = False  # the platform's timer was set once, and no read tells it
    upload: dict[str, Any] | None = None  # how far the upload has come, for the screen
    install: Mapping[str, Any] | None = None  # the installation that is under way
    install_told: Mapping[str, Any] | None = None  # what was last recorded of it
    preparing: list[dict[str, Any]] = field(default_factory=list)  # not yet in the database

    @property
    def phase(self) -> str | None:
        """What is going on on the instance: the trainer's word, or that something is installed."""
        return "install" if self.install is not None else self.training.phase

    def take_read(self, view: InstanceView) -> None:
        """Keep one answer of the platform."""
        self.waits = view.waits_for_capacity and not self.calls.was_on
        if self.waits:  # what waits for its card since our call has nothing yet to be charged for
            view = replace(view, read=replace(view.read, charging=False))
        is_bare = view.gpu_count == 0 and view.read.power is Power.RUNNING
        self.cardless = self.cardless + 1 if is_bare else 0
        self.fresh = view
        is_on = view.read.is_charging and view.read.power.may_charge
        is_on = is_on and not shows_nothing(view.read)
        if not self.shown_on:
            self.off_before = self.last_off
        if is_on:
            self.off_after = None
        elif self.shown_on and self.off_after is None:
            self.off_after = view.read.begun
        self.shown_on = self.shown_on or is_on
        self.waited = view.read.begun if self.waits else self.waited
        self.reads = [*self.reads, view.read][-READS_KEPT:]
        self.ssh = view.ssh
        self.tariff = view.tariff
        self.absent_since = None
        last, since_ms = self.calls.last, view.read.charged_since_ms
        was_charged = last is not None and since_ms is not None and since_ms >= last.utc_ms
        if was_charged or is_on:
            self.calls.was_on = True

    @property
    def seems_on(self) -> bool:
        """Whether the latest answer was that it is on, or comes on, or goes off."""
        return bool(self.reads) and self.reads[-1].power.seems_on

    @property
    def last_off(self) -> Moment | None:
        """When the latest read that showed it off was made, of those kept here."""
        off = (read.begun for read in reversed(self.reads) if not read.power.may_charge)
        return next(off, None)

    def begin(self, stage: int, attempt: int, training: TrainingFacts) -> None:
        """Another stage or attempt: what was known of the training before is not of this one."""
        self.stage, self.attempt, self.training = stage, attempt, training
        self.unsaved.clear()
        self.forecast_json = None
        self.pull_failed.clear()
        self.verdict = None

    def forget_instance(self) -> None:
        """The job is to have a new instance: nothing of the old one is true of that."""
        self.reads, self.calls, self.tariff, self.ssh = [], Calls(), None, None
        self.read_at = self.absent_since = self.fresh = self.gone = None
        self.agent_until_ms = self.denied = None

    def note_leased(self, heartbeat: int) -> None:
        """This heartbeat was answered with a lease."""
        self.link_facts = replace(self.link_facts, leased_heartbeat=heartbeat)

    def note_stop_sent(self) -> None:
        """The agent was asked to save and end the training."""
        self.link_facts = replace(self.link_facts, stop_sent=True)
