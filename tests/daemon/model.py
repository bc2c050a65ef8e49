"""What a person may rely on, whatever happens: the reference model of the daemon.

It knows prices, time, caps, what was asked for, and what the fake platform did by that platform's
own meter. It shares no arithmetic with the daemon and foretells nothing: it says what must not be.
All times are true ones, in milliseconds; money is micro-yuan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.daemon.fake_cloud import Machine

LEASE_MS = 20_000
SAVE_MS = 4_000
OFF_MS = 8_000  # L: 4 s to save, 3 s to stop, 1 s that a timer may be late
RETRY_MS = 60_000  # the longest pause between two stop calls
LOOK_MS = 60_000  # how often the machine of an ended job is looked at
FOLLOWED_MS = RETRY_MS + LOOK_MS + OFF_MS + 12_000
ENDED = ("paused", "finished", "failed", "released")
HANDS = frozenset({"daemon", "stop", "stop ignored", "off but billing"})  # break stopping itself
HARMLESS = frozenset({"line", "capacity", "timer", "guest"})  # no excuse for not following a wish


@dataclass
class Surroundings:
    """What is broken now, and since when it is not."""

    broken: set[str] = field(default_factory=set)
    hands_since_ms: int = 0
    sound_since_ms: int = 0
    awake_since_ms: int = 0
    was_calm: bool = True  # nothing was ever broken, dearer or out of time

    def lived(self, now_ms: int) -> None:
        """So it is at the end of this second."""
        self.was_calm = self.was_calm and not self.broken
        self.hands_since_ms = now_ms if self.broken & HANDS else self.hands_since_ms
        self.sound_since_ms = now_ms if self.broken - HARMLESS else self.sound_since_ms
        self.awake_since_ms = now_ms if "daemon" in self.broken else self.awake_since_ms

    def can_stop(self, now_ms: int) -> bool:
        """Whether the daemon has been able to stop things for long enough to have done so."""
        return now_ms - self.hands_since_ms > RETRY_MS + OFF_MS


@dataclass
class JobModel:
    """One job, as the person who pays for it sees it."""

    caps: list[int]  # every cap that was ever in force, the newest last
    wish: str = "run"
    wished_ms: int = 0
    excused: int = 0  # what ran while nobody at all could have ended it
    bill: int = 0
    looked_ms: int = 0  # when the platform last told how it stands
    risen_ms: int | None = None  # a price rise that was not answered yet
    by_hand: bool = False  # switched on in the console, and not off since
    uncovered_ms: int = -OFF_MS
    timely: dict[int, bool] = field(default_factory=dict)  # of each timer: armed near enough

    def lived(self, around: Surroundings, machine: Machine, bill: int, now_ms: int) -> None:
        """A second has passed and cost so much; it is excused if nobody could have ended it."""
        hands = around.can_stop(now_ms)
        if self.risen_ms is not None and self.looked_ms > self.risen_ms and hands:
            self.risen_ms = None
        self.by_hand = self.by_hand and machine.power != "stopped"
        timer = machine.timer_ms
        near = timer is not None and timer <= now_ms + LEASE_MS + SAVE_MS
        timed = timer is not None and self.timely.setdefault(timer, near)
        timed = timed and "timer" not in around.broken
        if machine.is_charged and not (hands or timed):
            self.uncovered_ms = now_ms
        if self.by_hand or self.risen_ms is not None:
            self.uncovered_ms = now_ms
        if now_ms - self.uncovered_ms <= OFF_MS:
            self.excused += bill - self.bill
        self.bill = bill
        limit = max(self.caps) + self.excused
        assert bill <= limit, f"the platform bills {bill}, and {limit} is all that may be"

    def granted(self, committed: int) -> None:
        """I1, by the cap that the person set last."""
        assert committed <= self.caps[-1], f"granted up to {committed}, the cap is {self.caps[-1]}"

    def covered(
        self, committed: int, machine: Machine | None, now_ms: int, end_ms: int, price: int
    ) -> None:
        """I2: a grant holds all of the run that it lets go on, until its end and L beyond.

        Without what a begun quantum costs, and only where the price has been one throughout.
        """
        runs = [] if machine is None else machine.runs
        if self.by_hand or any(micros != price for run in runs for _, micros in run.prices):
            return
        spans = [(run.ended_ms, run.started_ms) for run in runs]
        ran_ms = sum((end or now_ms) - begun for end, begun in spans)
        least = (ran_ms + end_ms - now_ms + OFF_MS) * price // 3_600_000
        slack = (len(runs) + 3) * price // 3_600  # a second, wherever one may be rounded
        assert committed >= least - slack, f"granted on {committed}, and it may cost {least}"

    def armed(self, machine: Machine, until_ms: int) -> None:
        """The agent may go on no longer than until the platform's own timer has been set to."""
        assert machine.timer_ms is not None, "the agent is let go on, and no timer is armed"
        assert machine.timer_ms >= until_ms, "the agent is let go on beyond the timer"

    def ended(self, state: str, machine: Machine | None, *, code_0: bool) -> None:
        """A final state is entered: only when the meter stands still, and success only as such."""
        off = machine is None or not machine.is_charged
        assert off, f"{state} is said while the platform charges"
        assert state != "finished" or code_0, "finished, and no training exited with 0"

    def followed(self, around: Surroundings, state: str, charged: bool, now_ms: int) -> None:
        """The wish is carried out, and what is over is off, soon after everything works again."""
        since_ms = max(self.wished_ms, around.sound_since_ms)
        if now_ms - since_ms <= FOLLOWED_MS or around.broken - HARMLESS:
            return
        over = self.wish != "run" or state in ENDED
        assert self.wish != "pause" or state in ENDED, f"to be paused, but {state}"
        assert self.wish != "release" or state == "released", f"to be released, but {state}"
        assert not (over and charged), f"{self.wish} is asked for, {state} is shown, and it is on"

    def keeps_trying(self, around: Surroundings, state: str, stops: list[int], now_ms: int) -> None:
        """A machine to be stopped is told so again and again, whatever the platform answers."""
        since_ms = max(self.wished_ms + OFF_MS, around.awake_since_ms, *stops[-1:])
        if self.wish == "run" or state in ENDED or self.by_hand:
            return
        assert now_ms - since_ms <= RETRY_MS + 5_000, "the stop was given up"
