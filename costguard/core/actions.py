"""What `decide` may ask for. Each is plain data; the daemon's `act` carries them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from costguard.core.snapshot import Verdict


@dataclass(frozen=True, slots=True)
class AskPrice:
    """Read the tariff that the instance would be billed under."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Reserve running from now for `length_ms` plus L; opens the lease or renews it."""

    length_ms: int
    increment_micros: int
    final: bool
    latency_ms: int
    aside_micros: int = 0  # reserved beside it for an instance that the create call makes too many


@dataclass(frozen=True, slots=True)
class Create:
    """Rent an instance under the open lease, the platform's timer armed with it."""

    timer_after_ms: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take over the instance that the job names, under the open lease."""


@dataclass(frozen=True, slots=True)
class ResolveCreate:
    """Find out by listing our tag what became of an unclear create."""


@dataclass(frozen=True, slots=True)
class Shorten:
    """Have the open lease end `length_ms` from now: the caps no longer reach further."""

    length_ms: int


@dataclass(frozen=True, slots=True)
class PowerOn:
    """Switch the paused instance on again, under the open lease."""


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Call off a start that only waits for a card, lest it come true unseen; try again later."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Settle what is reserved for a start that the platform refused; only after the proof of I4."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """Give a paused instance back to the job that had it, and rent a new one, if that can be had.

    Only after the proof of I4: what its refused start had reserved is settled.
    """


@dataclass(frozen=True, slots=True)
class Collect:
    """As Rest, and then switch on once more: the journal on the disk says what has happened."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What there was to bring home is here, or cannot be had: end it as it had ended before."""

    text: str


@dataclass(frozen=True, slots=True)
class NextStage:
    """Go on to the next rung of the ladder on the same instance."""


@dataclass(frozen=True, slots=True)
class ArmTimer:
    """Move the platform's stop timer to `timer_at_ms`; read back, the lease's end is armed."""

    timer_at_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class EnsureLink:
    """See that something is trying to reach the agent."""


@dataclass(frozen=True, slots=True)
class SendLease:
    """Answer this heartbeat with the armed lease.

    `alone`: whether the agent is to give the verdicts by itself should the daemon fall silent.
    """

    heartbeat: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Save:
    """Ask the agent to have the training saved and ended within `grace_ms`."""

    grace_ms: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Bring one artifact home."""

    artifact_id: int


@dataclass(frozen=True, slots=True)
class Conclude:
    """Record why the run ends, with its evidence."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class StopPower:
    """Call the platform's stop."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Release:
    """Give the instance back, its disk with it."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Have the disk released if the result at home is whole, as the job file asks; else keep it."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that costs money is not as it should be: say so, loudly, each time."""

    kind: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SetState:
    """Show this state from now on."""

    state: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Settle what is reserved and enter a final state; only after the proof of I4."""

    state: str


Action: TypeAlias = (
    AskPrice
    | Grant
    | Create
    | Adopt
    | ResolveCreate
    | Shorten
    | PowerOn
    | TakeBack
    | Rest
    | LetGo
    | Collect
    | Fetched
    | NextStage
    | ArmTimer
    | EnsureLink
    | SendLease
    | Save
    | Pull
    | Conclude
    | StopPower
    | Release
    | GiveBack
    | Alarm
    | SetState
    | Finish
)
