"""What is printed at submission of money that nothing armed could keep, held against the meter.

Printed are the cap, as the worst case; where neither a timer nor a proven stop from inside is
there, "each hour until somebody stops it costs P"; where the timer cannot be set at create, the
gap up to the first armed lease, which the daemon alone covers. Each rests on a premise, and where
the premise holds the excess must stay within it:

- the daemon is up again, awake and heard: from then on it has the time of one stop (L and the
  calls' time-outs), and not a second more is excused;
- the stop calls work: while they are refused, ignored or lost it is the platform that goes on;
- the price is the printed one, or what it has risen to since.

Counted are the quanta of the time in which the excess grew, one more for each machine and for where
it began, a start's minimum, what the disks cost meanwhile, and the seconds by which a clock can be
wrong without being told from an answer's way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costguard.core.meter import CLOCKS_AGREE_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costguard.sim.cloud import Machine
    from costguard.sim.scenario import Order
    from costguard.sim.world import World

MS_PER_S = 1_000
HOUR_MS = 3_600_000
CALLS_MS = 60_000  # what the calls of all jobs may take, time-outs among them
STOP_AGAIN_MS = 60_000  # the longest wait between two stop calls
HOURLY = re.compile(r"(?:each hour .*costs |if it dies then: )([0-9.]+) yuan")
YUAN = 1_000_000


@dataclass
class Printed:
    """One job's bound as it was said before anything was rented, and what was used of it."""

    hourly_micros: int
    helpless_ms: int = 0  # how long its excess has grown while nobody could act
    grown_ms: int = 0  # when it last did
    disk_micros: int = 0  # what its disks had cost when the excess began


def hourly_micros(lines: Sequence[str]) -> int | None:
    """The price of an hour that nothing bounds, as the lines of a plan say; None: none is said."""
    for line in lines:
        found = HOURLY.search(line)
        if found is not None:
            whole, _, part = found.group(1).partition(".")
            return int(whole) * YUAN + int(part.ljust(6, "0"))
    return None


class Promises:
    """Every job's, in one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._printed: dict[str, Printed] = {}

    def on_submit(self, name: str, lines: Sequence[str] | None) -> None:
        """A job was taken; `lines` are what was printed, None where nobody prints."""
        price = self._world.cloud.prices.running
        told = price if lines is None else hourly_micros(lines)
        self._printed[name] = Printed(price if told is None else told)

    def broken(self, order: Order, machines: Sequence[Machine], over_micros: int) -> str | None:
        """Why an excess that has just grown so far is not what was printed; None: it is."""
        printed = self._printed.get(order.spec.name)
        if printed is None:
            return "it was never printed"
        if not any(self._is_helpless(machine, order) for machine in machines):
            return "it grows while the daemon is there to stop it"
        prices, now_ms = self._world.cloud.prices, self._world.clock.true_ms
        disk = sum(machine.disk_micros(now_ms) for machine in machines)
        if printed.helpless_ms == 0:
            printed.disk_micros = disk
        quantum_ms, passed_ms = prices.quantum_s * MS_PER_S, self._world.passed_ms
        since_ms = now_ms - printed.grown_ms  # what runs grows once a quantum: it ran on till now
        ran_on = since_ms <= quantum_ms + passed_ms + CALLS_MS
        printed.helpless_ms += since_ms if ran_on else passed_ms
        printed.grown_ms = now_ms
        dearest = max([printed.hourly_micros, *(micros for _, micros in self._rises())])
        slack_ms = CLOCKS_AGREE_MS if self._world.clock.was_set else 0
        quanta = -(-(printed.helpless_ms + slack_ms) // quantum_ms) + len(machines) + 1
        least_ms = max(self._world.cloud.rules.minimum_s * MS_PER_S - quantum_ms, 0)
        bound = (quanta * quantum_ms + len(machines) * least_ms) * dearest // HOUR_MS
        bound += disk - printed.disk_micros + 2 * len(machines)  # and the rounding of each
        if over_micros > bound:
            return f"{printed.helpless_ms} ms at {dearest} micro-yuan an hour are {bound}"
        return None

    def _rises(self) -> Sequence[tuple[int, int]]:
        """The prices since the first; none where it has never changed."""
        return self._world.cloud.price_log[1:]

    def _is_helpless(self, machine: Machine, order: Order) -> bool:
        """Whether nobody could have stopped the machine by now who should have."""
        world = self._world
        now_ms, grace_ms = world.clock.true_ms, world.latency_ms(order) + CALLS_MS
        if now_ms - world.up_since_ms <= grace_ms:
            return True
        failed_ms = machine.failed_stop_ms
        return failed_ms is not None and now_ms - failed_ms <= STOP_AGAIN_MS + grace_ms
