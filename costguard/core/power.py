"""Power states, and when an instance counts as stopped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costguard.core.moment import Moment


class Power(str, Enum):
    """What a platform says of an instance. Only `stopped` and `released` mean: no rent."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    OFF_BILLING = "off_billing"  # off, still charged: treated as running
    RELEASED = "released"
    UNKNOWN = "unknown"  # not told, or not understood: treated as running

    @property
    def may_charge(self) -> bool:
        """Whether rent may be running. Everything but a plain "stopped" or "released" may."""
        return self not in (Power.STOPPED, Power.RELEASED)

    @property
    def seems_on(self) -> bool:
        """Whether the platform says that it is not off, and does say."""
        return self.may_charge and self is not Power.UNKNOWN


@dataclass(frozen=True, slots=True)
class PowerRead:
    """One answer of the platform about one instance.

    `begun` is when the question was sent, which is the only time the answer can be relied on for.
    `charged_since_ms` and `charged_until_ms` are the platform's own word (UTC) on the present or
    last power interval, where it gives one; `charging` is its word on whether rent runs now.
    `told_at_ms` is what its clock said when it answered, where that is known.
    """

    power: Power
    begun: Moment
    charging: bool | None = None
    price_micros_per_hour: int | None = None
    charged_since_ms: int | None = None
    charged_until_ms: int | None = None
    timer_at_ms: int | None = None
    told_at_ms: int | None = None

    @property
    def is_charging(self) -> bool:
        """Whether rent runs: the platform's word where it gives one, else the power state's."""
        if self.charging is not None:
            return self.charging
        return self.power.may_charge


@dataclass(frozen=True, slots=True)
class StopProof:
    """The rule of invariant I4: what it takes to believe that the meter has stopped."""

    apart_ms: int  # at least one poll and the platform's cache age

    def holds(self, reads: tuple[PowerRead, ...], last_call: Moment | None) -> bool:
        """Whether two off reads, both begun after the last call, lie `apart_ms` from each other.

        `reads` are the latest unbroken run of off reads, oldest first: one read that says
        anything else starts the proof anew, and so does a start or stop call.
        """
        valid = [r for r in reads if last_call is None or is_after(r.begun, last_call)]
        if len(valid) < 2:
            return False
        return apart_ms(valid[0].begun, valid[-1].begun) >= self.apart_ms


def apart_ms(earlier: Moment, later: Moment) -> int:
    """Milliseconds surely between two reads: by the boot clock where both are of one boot.

    Not the larger of two clocks, as for money: a wall clock that jumps between two reads would
    make two looks at one cached answer a proof.
    """
    if later.boot_id == earlier.boot_id:
        return later.boot_ms - earlier.boot_ms
    return later.utc_ms - earlier.utc_ms


def is_after(later: Moment, earlier: Moment) -> bool:
    """Whether `later` is after `earlier`, by the boot clock where both are of one boot."""
    return apart_ms(earlier, later) > 0


def off_run(reads: tuple[PowerRead, ...]) -> tuple[PowerRead, ...]:
    """The latest unbroken run of reads that say off, and not charged, oldest first."""
    run: list[PowerRead] = []
    for read in reversed(reads):
        if read.power.may_charge or read.is_charging:
            break
        run.append(read)
    return tuple(reversed(run))
