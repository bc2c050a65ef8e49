"""The money invariants, checked from outside after every commit and at every call that spends.

Reads the database by plain SQL and the platform's true state; shares nothing with the ledger's
own arithmetic but the meaning of the columns.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from costguard.core.meter import CLOCKS_AGREE_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.daemon.world import World

FINAL = "('paused', 'finished', 'failed', 'released')"
POSTED = "coalesce(sum(case when kind in ('charge', 'adjust') then amount_micros else 0 end), 0)"
PENDING = (
    "coalesce(sum(case kind when 'reserve' then amount_micros when 'settle' then -amount_micros "
    "when 'charge' then -covered_micros else 0 end), 0)"
)


class Auditor:
    """Holds a world's books against its truth."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._audited = 0
        self._entries: list[tuple[Any, ...]] = []
        self._final: set[int] = set()
        self.grants = 0
        self.trail: list[str] = []  # entries, calls and agent leases in the order they happened

    # ------------------------------------------------------------------ at each commit

    def on_commit(self) -> None:
        """I1 at each grant, I4 at each settlement and final state, I3 and I5 at each entry."""
        with closing(self._connect()) as database:
            new = database.execute(
                "select id, kind, job_id, lease_id, interval_id, amount_micros, covered_micros"
                " from ledger where id > ? order by id",
                (self._audited,),
            ).fetchall()
            for entry_id, kind, job_id, lease_id, interval_id, _, _ in new:
                self._audited = entry_id
                self.trail.append(kind)
                if kind == "reserve":
                    self.grants += 1
                    self._check_cap(database, job_id)
                if kind == "settle":
                    self._check_stopped(database, job_id, "a reservation was settled")
                if interval_id is not None:
                    self._check_interval(database, interval_id)
                if lease_id is not None:
                    self._check_lease(database, lease_id)
            query = f"select id from jobs where state in {FINAL}"
            for (job_id,) in database.execute(query).fetchall():
                if job_id not in self._final:
                    self._final.add(job_id)
                    self._check_stopped(database, job_id, "a final state was entered")

    def _check_cap(self, database: sqlite3.Connection, job_id: int) -> None:
        """I1: no grant leaves posted + pending + F above a cap, in any scope."""
        query = f"select {POSTED} + {PENDING} from ledger where job_id = ?"
        committed = database.execute(query, (job_id,)).fetchone()[0]
        cap, hold, project = database.execute(
            "select cap_micros, hold_micros, project from jobs where id = ?", (job_id,)
        ).fetchone()
        assert committed + hold <= cap, f"I1: {committed} + {hold} > {cap} after a grant"
        caps = self._world.caps
        holds = database.execute("select sum(hold_micros) from jobs").fetchone()[0]
        if caps.month_micros is not None:
            query = f"select month, {POSTED} from ledger group by month"
            for month, posted in database.execute(query).fetchall():
                pending = database.execute(
                    f"select {PENDING} from ledger where lease_id in (select id from leases"
                    " where state = 'open' and instr(months, ?))",
                    (month,),
                ).fetchone()[0]
                assert posted + pending + holds <= caps.month_micros, f"I1: {month} is over"
        if project in (caps.project_micros or {}):
            query = f"select {POSTED} + {PENDING} from ledger where project = ?"
            committed = database.execute(query, (project,)).fetchone()[0]
            assert committed <= (caps.project_micros or {})[project], f"I1: {project} is over"

    def _check_stopped(self, database: sqlite3.Connection, job_id: int, what: str) -> None:
        """I4: only after the meter of everything that the job rented has truly stopped."""
        rows = database.execute("select job_id, provider_id from instances").fetchall()
        others = {machine for owner, machine in rows if owner != job_id}
        world = self._world
        world.cloud.settle()
        charged = [
            machine.id
            for machine in world.cloud.machines
            if machine.tag.startswith(f"costguard-test-{job_id}-")
            and machine.is_charged
            and machine.id not in others
            and machine.visible_ms <= world.clock.true_ms  # else nobody could know
        ]
        owned = {machine for owner, machine in rows if owner == job_id}
        charged += [one.id for one in world.cloud.charged if one.id in owned]
        assert not charged, f"I4: {what} while {charged} still cost money"

    def _check_interval(self, database: sqlite3.Connection, interval_id: int) -> None:
        """I3: what is posted is the sum of the entries, and no stretch is charged twice."""
        entries = database.execute(
            "select kind, amount_micros, from_ms, to_ms from ledger where interval_id = ?"
            " order by id",
            (interval_id,),
        ).fetchall()
        posted = database.execute(
            "select posted_micros from power_intervals where id = ?", (interval_id,)
        ).fetchone()[0]
        assert posted == sum(entry[1] for entry in entries), "I3: an entry without its interval"
        reached = None
        for kind, _, from_ms, to_ms in entries:
            if kind == "charge":
                assert reached is None or from_ms >= reached, "I3: a stretch was charged twice"
                assert to_ms >= from_ms
                reached = to_ms

    def _check_lease(self, database: sqlite3.Connection, lease_id: int) -> None:
        query = f"select {PENDING} from ledger where lease_id = ?"
        pending = database.execute(query, (lease_id,)).fetchone()[0]
        assert pending >= 0, "a lease was charged beyond what it had reserved"

    # ------------------------------------------------------------------ at each outside effect

    def on_call(self, route: str, timer_ms: int | None) -> None:
        """I2: nothing is rented, started or timed beyond a committed reservation."""
        if route not in ("create", "start", "arm_timer"):
            return
        self.trail.append(route)
        with closing(self._connect()) as database:
            ends = database.execute("select end_utc_ms from leases where state = 'open'").fetchall()
        assert ends, f"I2: {route} without a lease"
        # A deadline that can be set only once is no lease: its own tests say where it may lie.
        if timer_ms is not None and not self._world.cloud.facts.timer_is_fixed:
            grace_ms = 4_000
            end_ms = max(ends)[0] - self._told_ahead_ms()
            assert timer_ms <= end_ms + grace_ms, "I2: a timer beyond the reservation"

    def _told_ahead_ms(self) -> int:
        """How far our wall clock is ahead of the platform's, where its answers have a date."""
        if not self._world.cloud.habits.dates_answers:
            return 0
        error_ms = self._world.clock.wall_error_ms
        return error_ms if abs(error_ms) >= CLOCKS_AGREE_MS else 0

    def on_agent_lease(self, message: Mapping[str, Any]) -> None:
        """I2: the agent is never granted more than is reserved and armed."""
        self.trail.append("agent lease")
        with closing(self._connect()) as database:
            armed_ms = database.execute(
                "select armed_end_utc_ms from leases where state = 'open' and id = ?",
                (int(message["id"].partition(".")[0]),),
            ).fetchone()
        assert armed_ms is not None, "I2: the agent was granted time without a lease"
        now_ms = self._world.clock.now().utc_ms
        assert now_ms + message["valid_ms"] <= armed_ms[0] + 1_000, "I2: granted beyond the armed"

    # ------------------------------------------------------------------ at the end

    def final_check(self) -> None:
        """I3 against the platform's bill, I5 on the chain, and one machine at most left on."""
        world = self._world
        with closing(self._connect()) as database:
            rows = database.execute(
                "select instances.provider_id, coalesce(sum(amount_micros), 0) from instances"
                " join power_intervals on power_intervals.instance_id = instances.id"
                " join ledger on ledger.interval_id = power_intervals.id group by 1"
            ).fetchall()
            chain = database.execute(
                "select previous_hash, hash from ledger order by id"
            ).fetchall()
        for before, after in pairwise(chain):
            assert after[0] == before[1], "I5: the chain of entries is broken"
        booked = dict(rows)
        for machine in world.cloud.machines:
            bill, books = world.cloud.machine_micros(machine), booked.get(machine.id, 0)
            tolerance = world.cloud.tolerance_micros(machine)
            assert abs(books - bill) <= tolerance, (
                f"I3: books {books}, bill {bill} micro-yuan for {machine.id}, "
                f"more than {tolerance} apart"
            )
        assert not world.cloud.charged, "something is left running"

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._world.database}?mode=ro", uri=True)
