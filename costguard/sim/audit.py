"""The books against the platform's meter: never below it, and never above what is honest.

Judged after each true answer that is in the books, machine by machine, and once more in the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.core.decide import FINAL_STATES
from costguard.sim.adapter import POWERS
from costguard.sim.ceiling import CALL_MS, Ceiling, dearest
from costguard.sim.clock import NEVER_MS
from costguard.sim.cloud import knowable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from costguard.sim.cloud import Machine, Run
    from costguard.sim.findings import Figures, JobBooks
    from costguard.sim.world import World

HOUR_MS = 3_600_000
# Troubles after which the books may be a little above the meter in the end, by `ceiling`'s rules.
BLURS = (
    "clock_jump",
    "stale_read",
    "stale_beyond",
    "unknown_power",
    "price_change",
    "new_boot",
    "wrong_bill",
)


class Audit:
    """What one world's books must be for each machine."""

    def __init__(
        self, world: World, figures: Figures, violate: Callable[[str, str, str], None]
    ) -> None:
        self._world, self._figures, self._violate = world, figures, violate
        # True answers of this tick: when, and whether it was on; None: it was still starting.
        self._reads: dict[str, tuple[int, bool | None]] = {}
        self._looks: dict[str, list[tuple[int, int]]] = {}  # of a machine: when, and the price told
        self._ceilings: dict[str, Ceiling] = {}
        self._half_seen: set[str] = set()  # machines of which a rent's end lies in no look

    # ------------------------------------------------------------------ what the daemon was told

    def on_read(self, machine: Machine, asked_ms: int) -> None:
        """The platform told the truth about a machine."""
        tells = self._world.scenario.facts.tells_meter_end
        is_on = machine.is_charged if tells else POWERS[machine.power].may_charge
        starts = tells and machine.power == "starting"  # which books rent from the call on
        self._reads[machine.id] = (asked_ms, None if starts else is_on)

    def on_vague(self, machine: Machine, told_on: bool | None) -> None:  # noqa: FBT001  (an ear)
        """The platform answered out of a cache, or (None) that it does not know."""
        ceiling = self._ceiling(machine)
        if told_on is None:
            ceiling.is_unknown = True
        else:
            ceiling.is_stale = True
            ceiling.was_shown_on = ceiling.was_shown_on or told_on
            ceiling.flips += machine.is_charged and not told_on

    def on_started(self, machine: Machine, job: JobBooks | None) -> None:
        """A machine was told to run, by a call that may not have had an effect."""
        is_untimed = machine.is_twin and not self._world.scenario.facts.arms_timer_at_create
        self._ceiling(machine).started(None if is_untimed else self._ends_by_ms(job))

    def _ceiling(self, machine: Machine) -> Ceiling:
        facts = self._world.scenario.facts
        found = self._ceilings.get(machine.id)
        if found is None:
            found = self._ceilings[machine.id] = Ceiling(
                machine,
                self._world.clock,
                self._world.cloud.rules,
                tells=facts.tells_meter_end,
                cache_age_ms=facts.cache_age_ms,
            )
        return found

    def _ends_by_ms(self, job: JobBooks | None) -> int | None:
        """By when a timer has surely ended what runs under the job's lease; None: it need not."""
        if job is None or job.lease_end_ms is None:
            return None
        if self._world.scenario.facts.timer_min_lead_ms is None:
            return None
        order = next((o for o in self._world.scenario.orders if o.spec.name == job.name), None)
        if order is None:
            return None
        return job.lease_end_ms - self._world.clock.wall_error_ms + self._world.latency_ms(order)

    # ------------------------------------------------------------------ at each tick

    def tick(self, owners: Mapping[str, JobBooks], *, recorded: bool) -> None:
        """I3, for what was truly answered in this tick, if the books could take it in."""
        if not self._reads:
            return
        for name, (asked_ms, was_on) in self._reads.items():
            job, machine = owners.get(name), self._world.cloud.by_id[name]
            if job is None:
                continue
            if not recorded:
                ceiling = self._ceiling(machine)
                ceiling.was_shown_on = ceiling.was_shown_on or bool(was_on)
                continue
            self._check_floor(machine, asked_ms)
            if was_on is not None:
                self._check_ceiling(machine, job, asked_ms, on=was_on)
        self._reads.clear()

    def _check_floor(self, machine: Machine, asked_ms: int) -> None:
        """The books are never below the platform's meter."""
        quantum_s = machine.prices.quantum_s
        looks = self._looks.setdefault(machine.id, [])
        since_ms = looks[-1][0] if looks else machine.created_ms
        if sum(run.touches(since_ms, asked_ms) for run in machine.runs) > 1:
            self._half_seen.add(machine.id)
        looks.append((asked_ms, machine.prices.running))
        told = (self._as_told(machine, number, looks) for number in range(len(machine.runs)))
        runs = [knowable(run, looks) for run in told if run is not None]
        true = sum(run.micros(asked_ms, quantum_s) for run in runs)
        true += machine.disk_micros(asked_ms)
        booked = self._world.posted_of(machine.id)
        if booked < true and booked < true - tolerance_micros(machine):
            self._violate("I3", machine.id, f"booked {booked}, metered {true} micro-yuan")

    def _as_told(self, machine: Machine, number: int, looks: list[tuple[int, int]]) -> Run | None:
        """The run as far as anybody could know it, who looked then; None: not at all.

        Where its timer came late, or it was charged on while off, and the platform did not tell its
        end to any look, the books have it up to when it was to end: at the least as long as a look
        saw it.
        """
        run, facts = machine.runs[number], self._world.scenario.facts
        if facts.timer_min_lead_ms is None or run.ended_ms is None:
            return run
        until_ms = NEVER_MS
        if number + 1 < len(machine.runs):
            until_ms = machine.runs[number + 1].started_ms
        if facts.tells_meter_end and any(run.ended_ms <= at < until_ms for at, _ in looks):
            return run
        late = machine.timer_lag_ms > facts.timer_lateness_ms or machine.timer_wall_error_ms != 0
        if not late and run.off_ms is None:
            return run
        seen = [at for at, _ in looks if run.started_ms <= at <= run.ended_ms]
        return replace(run, ended_ms=max(seen)) if seen else None

    def _check_ceiling(self, machine: Machine, job: JobBooks, asked_ms: int, *, on: bool) -> None:
        """Every second is charged once: the books have no more than they had to assume."""
        ceiling, clock = self._ceiling(machine), self._world.clock
        since_ms = ceiling.looked_ms if ceiling.has_looked else 0
        price = dearest(self._world.cloud.price_log, since_ms, clock.true_ms)
        ceiling.lease_ends(self._ends_by_ms(job), is_over=job.state in FINAL_STATES)
        ceiling.look(asked_ms, on=on, price=price, vague=clock.was_set)
        if machine.id in self._world.provider.wrong_bills or self._world.faults.is_beyond:
            return  # the books have the platform's word; no cache is as old as that answer
        age_ms = asked_ms - machine.created_ms + 2 * CALL_MS + clock.forward_ms
        disk = age_ms * machine.prices.disk // HOUR_MS + 2
        most = ceiling.micros() + disk
        booked = self._world.posted_of(machine.id)
        if booked > most:
            found = self._figures
            found.overcharged_micros_max = max(found.overcharged_micros_max, booked - most)
            metered = machine.running_micros(asked_ms) + machine.disk_micros(asked_ms)
            what = f"booked {booked}, metered {metered}, at most {most} micro-yuan"
            self._violate("I3 once", machine.id, what)

    # ------------------------------------------------------------------ in the end

    def check_end(self, machine: Machine) -> None:
        """Where nothing blurred the view, the books are the meter, within a quantum a rent.

        Of two rents between two looks that could be written, what is told is the latter alone.
        """
        if machine.id in self._half_seen:
            return
        counts = self._world.faults.counts
        if not self._world.scenario.facts.tells_meter_end or any(kind in counts for kind in BLURS):
            return
        now_ms = self._world.clock.true_ms
        booked = self._world.posted_of(machine.id)
        true = machine.running_micros(now_ms)
        if machine.released_ms is None:
            true += machine.disk_micros(now_ms)
        if machine.prices.disk == 0 and abs(booked - true) > tolerance_micros(machine):
            self._violate("I3", machine.id, f"booked {booked}, metered {true} in the end")


def tolerance_micros(machine: Machine) -> int:
    """One quantum for each power interval and each turn of a night, and a second of disk."""
    quantum_s = machine.prices.quantum_s
    quanta = 0
    for run in machine.runs:
        dearest_micros = max(micros for _, micros in run.prices)
        begun = 1
        if run.ended_ms is not None:  # a quantum may be thought to have begun on the other side
            begun += len(run.rules.turns_ms(run.started_ms, run.ended_ms))
        quanta += begun * quantum_s * dearest_micros // 3_600 + 2
    return quanta + machine.prices.disk // 3_600 + 2
