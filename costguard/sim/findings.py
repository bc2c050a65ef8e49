"""What the judge is shown of the books, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """Something that must never happen, and where to see it happen again."""

    seed: int
    tick: int
    invariant: str
    detail: str


@dataclass(frozen=True)
class JobBooks:
    """One job as the daemon's books have it."""

    id: int
    name: str
    project: str
    state: str
    reason: str | None
    cap_micros: int
    hold_micros: int
    posted_micros: int
    pending_micros: int
    overrun_micros: int
    machines: tuple[str, ...]
    lease_end_ms: int | None  # UTC by the daemon's clock; None without an open lease
    armed_end_ms: int | None

    @property
    def committed_micros(self) -> int:
        """The left side of I1."""
        return self.posted_micros + self.pending_micros + self.hold_micros


@dataclass
class Figures:
    """What is reported of one seed, or summed over many."""

    overspend_micros_max: int = 0
    excused_micros_max: int = 0
    overcharged_micros_max: int = 0  # above what the books had to assume
    orphans: int = 0
    false_stops: int = 0
    false_stops_beyond: int = 0
    wrong_pauses: int = 0
    grants: int = 0
    stops: int = 0

    def add(self, other: Figures) -> None:
        """Take another seed's figures in."""
        for name in ("overspend_micros_max", "excused_micros_max", "overcharged_micros_max"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        for name in ("orphans", "false_stops", "false_stops_beyond", "wrong_pauses"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.grants += other.grants
        self.stops += other.stops
