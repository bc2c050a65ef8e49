"""Everything that a decision may look at, gathered before it is made.

Times of the instance's own events are milliseconds of the instance's boot-time clock, all from
its journal: a step cadence is measured on one clock, whatever happens to the line between us.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from costguard.core.lease import Account, Interval, Lease
    from costguard.core.moment import Moment
    from costguard.core.power import Power, PowerRead
    from costguard.core.spec import JobSpec
    from costguard.core.tariff import Tariff


# How long a created instance may be missing from the platform's lists.
VISIBLE_WITHIN_MS = 15_000


@dataclass(frozen=True, slots=True)
class Platform:
    """What is known of the platform's habits, in the worst documented figures."""

    poll_interval_ms: int
    cache_age_ms: int
    stop_latency_ms: int
    timer_min_lead_ms: int | None
    timer_lateness_ms: int
    in_guest_stop_proven: bool = False  # a power-off from inside is known to stop the meter
    timer_is_fixed: bool = False  # a deadline can be set at create, and never again
    seen_late_ms: int = 0  # how much later than it came the end of rent may be charged to
    creates_once: bool = False  # one create call never makes two instances

    @property
    def double_ms(self) -> int:
        """How long a second instance of one call may run until it was listed and has stopped."""
        return VISIBLE_WITHIN_MS + 2 * self.poll_interval_ms + self.latency_ms(0)

    def latency_ms(self, save_grace_ms: int) -> int:
        """L, where saving may take so long: until the meter has stopped, as the books have it."""
        stop_ms = self.stop_latency_ms + self.timer_lateness_ms
        return save_grace_ms + stop_ms + self.seen_late_ms


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """The rented machine as last seen."""

    id: int
    provider_id: str | None  # None while a create call is unclear
    power: Power
    reads: tuple[PowerRead, ...]
    last_call: Moment | None
    stop_calls: int
    stop_accepted: bool
    was_on: bool  # seen running since the last start call
    started_call: Moment | None
    interval: Interval | None
    absent: bool
    stopped_seen: bool
    attested: bool = False  # a person says that it has stopped: never a proof
    waits: bool = False  # told to start, and queued for a card, perhaps for ever
    cardless: int = 0  # so many reads in a row that showed it running without a card
    lent: bool = False  # taken from an ended job unasked, and not on since: it can go back
    agent_until_ms: int | None = None  # UTC: the end of the lease that its agent was last granted
    denied: bool = False  # the platform has refused the last start call


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """How we stand with the agent."""

    state: str = "none"  # none, connecting, preparing, attached, lost, refused
    detail: str = ""
    since: Moment | None = None
    heard: Moment | None = None
    heartbeat: int | None = None
    heartbeat_at: Moment | None = None
    leased_heartbeat: int | None = None
    stop_sent: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One logged training step; `at_ms` is the instance's boot-time clock."""

    step: int
    at_ms: int
    loss: float | None  # None: not a number


@dataclass(frozen=True, slots=True)
class Window:
    """One telemetry window. None means unknown, and unknown is never idle."""

    at_ms: int
    length_ms: int
    gpu_percent_max: int | None  # over all cards; None: NVML did not say
    gpu_absent: bool  # NVML itself says that there is no card or no driver
    cpu_centicores: int | None
    processes: int | None
    gpu_state: str = "ok"  # NVML's: ok, absent, lost, reset, changed, error
    gpu_figures: tuple[float | None, ...] = ()  # all that the cards told, to see whether it moves


@dataclass(frozen=True, slots=True)
class Signs:
    """When the job last showed life, by each of the ways that it has. None: never.

    `status`: the trainer's own word (bytes of a download done, and the like); `log`: output;
    `bytes`: read or written by its processes; `cpu`, `gpu`: work, which a hung job shows too.
    """

    progress_ms: int | None = None
    status_ms: int | None = None
    log_ms: int | None = None
    bytes_ms: int | None = None
    cpu_ms: int | None = None
    gpu_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How the training process ended."""

    code: int | None
    signal: int | None
    artifact_complete: bool
    log_tail: tuple[str, ...] = ()
    artifact_pending: bool = False  # the last artifacts were still being verified
    asked: bool = False  # a stop was under way: the agent's, or ours
    detail: str = ""  # why neither code nor signal is known


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the agent's journal says, oldest first."""

    agent_now_ms: int | None = None
    launched_at_ms: int | None = None
    phase: str | None = None
    phase_since_ms: int | None = None
    steps: tuple[Step, ...] = ()
    began: Step | None = None  # the first step of this run, which `steps` may no longer hold
    first_losses: tuple[float, ...] = ()
    best_loss: float | None = None
    windows: tuple[Window, ...] = ()
    exit: Exit | None = None
    exit_at_ms: int | None = None
    total_steps: int | None = None
    phase_inferred: bool = False  # the trainer tells no phase: train, since the first progress
    signs: Signs = field(default_factory=Signs)
    adapter_at_ms: int | None = None  # when the result was found complete
    verdict: Verdict | None = None  # the agent's own, given while the daemon was silent

    @property
    def is_alive(self) -> bool:
        """Whether a training process was started and has not been seen to end."""
        return self.launched_at_ms is not None and self.exit is None


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """One complete result on the instance."""

    id: int
    name: str
    kind: str  # checkpoint, adapter
    step: int
    pulled: bool
    pulling: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class Visit:
    """A person's stay on an ended job's instance: it is held for them, and nothing is trained.

    `until` is None while it was not switched on for them yet; `heard` is their last sign of life.
    """

    id: int
    purpose: str  # shell, chat, export
    length_ms: int
    until: Moment | None
    heard: Moment


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One job, whole."""

    spec: JobSpec
    platform: Platform
    state: str
    wish: str
    pause_reason: str | None
    verdict_at: Moment | None
    created: Moment
    stage: int
    stage_since: Moment | None
    tariff: Tariff | None
    instance: InstanceFacts | None
    lease: Lease | None
    armed_end: Moment | None
    accounts: tuple[Account, ...]
    collected: bool = False  # it was switched on once already to ask what had happened
    shares_caps: bool = False  # another unfinished job lives under one of these caps
    link: LinkFacts = field(default_factory=LinkFacts)
    training: TrainingFacts = field(default_factory=TrainingFacts)
    artifacts: tuple[ArtifactFacts, ...] = ()
    visit: Visit | None = None  # from its asking to the proof of the stop after it
    retry_at_ms: int | None = None
    open_intents: frozenset[str] = frozenset()
    has_ssh: bool = False
    fresh_read: bool = False  # the platform answered in this pass

    @property
    def latency_ms(self) -> int:
        """L: the longest time from "stop" to "meter stopped", as the books will have it."""
        return self.platform.latency_ms(self.spec.runs[self.stage].save_grace_ms)

    @property
    def has_next_stage(self) -> bool:
        """Whether another rung of the ladder waits."""
        return self.stage + 1 < len(self.spec.runs)

    @property
    def in_breach(self) -> bool:
        """Whether any scope has gone past its cap."""
        return any(account.in_breach for account in self.accounts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a run ends: the pause reason of the contract, in words, with what it was seen from."""

    reason: str
    text: str
    evidence: dict[str, Any]
    save: bool = True
