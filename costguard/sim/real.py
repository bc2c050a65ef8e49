"""Tier 2: the real daemon on a real SQLite file; clock, executor, platform, line, notifier swapped.

Through the same `Context` as the real wiring; passes run inline, on this thread.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from sqlalchemy import event

from costguard.core.moment import Moment, ms_until
from costguard.daemon.chores import WATCH_AGAIN_S, Chores
from costguard.daemon.commands import Commands
from costguard.daemon.context import Context
from costguard.daemon.loop import Loop
from costguard.errors import UserError
from costguard.sim.findings import JobBooks
from costguard.sim.world import INSTALLATION, MINUTE_MS
from costguard.store.database import Store, StoreUnavailable
from costguard.store.ledger import broken_links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from costguard.remote.link import Link, LinkPlan
    from costguard.sim.scenario import Act, Order
    from costguard.sim.world import World

ZONE = ZoneInfo("Asia/Shanghai")
VISITOR_ACTS_MS = 20_000
MOST_ROUNDS = 200  # passes that wake each other within one instant
FINAL = ("paused", "finished", "failed", "released")
JOBS = """
select j.id, j.name, j.project, j.state, j.pause_reason, j.cap_micros, j.hold_micros,
 (select coalesce(sum(amount_micros), 0) from ledger
   where job_id = j.id and kind in ('charge', 'adjust')),
 (select coalesce(sum(case kind when 'reserve' then amount_micros when 'settle' then -amount_micros
   when 'charge' then -covered_micros else 0 end), 0) from ledger
   where lease_id in (select id from leases where job_id = j.id)),
 (select coalesce(sum(amount_micros - covered_micros), 0) from ledger
   where job_id = j.id and kind = 'charge' and note = 'running'),
 (select group_concat(provider_id) from instances where job_id = j.id),
 (select max(end_utc_ms) from leases where job_id = j.id and state = 'open'),
 (select max(armed_end_utc_ms) from leases where job_id = j.id and state = 'open')
from jobs j order by j.id
"""
NEW_ENTRIES = "select id, kind, job_id, amount_micros, covered_micros from ledger where id > ?"
ALARMED = """
select coalesce(sum(json_extract(data_json, '$.micros')), 0) from events
 where job_id = ? and kind = 'overrun'
"""
POSTED = """
select coalesce(sum(l.amount_micros), 0) from ledger l
 join power_intervals p on p.id = l.interval_id join instances i on i.id = p.instance_id
 where i.provider_id = ? and l.kind in ('charge', 'adjust')
"""


class InlineExecutor(Executor):
    """Runs what is submitted at once, on the caller's thread; only a death gets through."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it."""
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (as a thread pool does)
            done.set_exception(error)
        return done


class SimStore(Store):
    """The real store, quick, that can fail and be killed, with an ear at each commit."""

    _is_forced = False  # no power cut comes to a simulation

    def __init__(
        self, path: Path, point: Callable[[str], None], on_commit: Callable[[], None]
    ) -> None:
        super().__init__(path)
        self._point, self._on_commit = point, on_commit
        self.broken: str | None = None

        @event.listens_for(self._writer, "connect")
        def _quick(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA synchronous=OFF")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """As the real one: all of it is committed, or nothing."""
        if self.broken is not None:
            raise StoreUnavailable(f"the database said: {self.broken}")
        self._point("before a commit")
        with super().write() as session:
            yield session
        self._on_commit()
        self._point("after a commit")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """As the real one; a locked database cannot be read either."""
        if self.broken == "database_locked":
            raise StoreUnavailable("the database said: locked")
        with super().read() as session:
            yield session


class SimLoop(Loop):
    """The real loop, which also tells how long nothing is due."""

    def quiet_ms(self) -> int:
        """Until the nearest pass is due."""
        if self._woken:
            return 0
        now = self._context.clock.now()
        return min((ms_until(at, now) for at in self._due.values()), default=1 << 60)


class RealHost:
    """The real daemon in a world."""

    def __init__(self, world: World, database: Path) -> None:
        self._world, self._database = world, database
        self._eye = sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)
        self._audited = 0
        self._books: tuple[JobBooks, ...] | None = None
        self._broken: str | None = None
        self._is_watched = True
        self._visits: dict[str, tuple[int, int]] = {}  # by job: the visit, and when it is left

    def boot(self) -> None:
        """Start the daemon on what the database has."""
        world = self._world
        self._store = SimStore(self._database, world.point, self._on_commit)
        self._store.broken = self._broken
        self._again: Moment | None = None  # when an account is to be listed again
        context = self._context = Context(
            store=self._store,
            clock=world.clock,
            provider=lambda name: world.provider,
            link=self._open_link,
            notify=world.notice,
            caps=lambda: world.scenario.caps,
            zone=ZONE,
            installation=INSTALLATION,
            client_key_path=self._database.with_name("client_key"),
            client_public_key="ssh-ed25519 AAAA",
        )
        self._loop = SimLoop(context, InlineExecutor())
        self._commands = Commands(context, self._loop.wake)
        self._chores = Chores(context)
        self._is_stirred = True

    def _open_link(self, plan: LinkPlan, wake: Callable[[], None]) -> Link:
        return cast("Link", self._world.line.open(plan, wake))

    def kill(self) -> None:
        """The process is gone."""
        self._store.close()

    def unwatch(self) -> None:
        """Nobody looks at each commit any more, for measuring what a pass costs by itself."""
        self._is_watched = False

    def close(self) -> None:
        """The end of the world."""
        self._store.close()
        self._eye.close()

    def work(self) -> None:
        """Run what is due, however often it wakes itself; look for jobs only if one may be new."""
        self._visit()
        if self._again is not None and ms_until(self._again, self._world.clock.now()) == 0:
            self._chores.watch_again()
            self._is_stirred = True
            self._note_owed()
        if not self._is_stirred and self._loop.quiet_ms() > 0:
            return
        self._is_stirred = False
        for _ in range(MOST_ROUNDS):
            if self._loop.step() > 0:
                return
        self._world.judge.violate("rest", "daemon", "it does not come to rest")

    def quiet_ms(self) -> int:
        """How long nothing is due, a visitor's next sign of life included."""
        quiet_ms = self._loop.quiet_ms()
        if self._visits:
            quiet_ms = min(quiet_ms, VISITOR_ACTS_MS)
        if self._again is None:
            return quiet_ms
        return min(quiet_ms, ms_until(self._again, self._world.clock.now()))

    def _visit(self) -> None:
        """Whoever is on a visit gives a sign of life, or leaves."""
        for name, (visit, leaves_ms) in list(self._visits.items()):
            args = {"job": name, "visit": visit}
            try:
                if self._world.clock.true_ms < leaves_ms:
                    over = self._commands.visit_touch(args)["visit"] == "over"
                else:
                    self._commands.visit_end(args)
                    self._is_stirred = over = True
            except (UserError, StoreUnavailable):
                continue  # the visitor tries again
            if over:
                del self._visits[name]

    def chores(self) -> None:
        """As the scheduler calls them."""
        self._chores.watch_strays()
        self._chores.reconcile()
        self._is_stirred = True
        self._note_owed()

    def _note_owed(self) -> None:
        """As the scheduler's short interval, where an account is owed a look."""
        again = self._world.clock.now().plus_ms(WATCH_AGAIN_S * 1_000)
        self._again = again if self._context.owed else None

    def submit(self, order: Order) -> bool:
        """Hand over a job, by a key of its own: asked twice, it is one job."""
        self._is_stirred = True
        try:
            told = self._commands.submit({"spec": order.spec.to_json(), "key": order.spec.name})
        except UserError as refusal:
            return refusal.code != "no_price"
        except StoreUnavailable:
            return False
        self._world.judge.promises.on_submit(order.spec.name, told["lines"])
        return True

    def command(self, act: Act, cap_micros: int) -> bool:
        """What a person asks for."""
        self._is_stirred = True
        try:
            if act.do == "visit":
                length_ms = act.percent * MINUTE_MS
                told = self._commands.visit(
                    {"job": act.job, "purpose": "shell", "length_ms": length_ms}
                )
                stays_ms = length_ms * (1 + act.percent % 2)  # every other one leaves early
                self._visits[act.job] = (told["visit"], self._world.clock.true_ms + stays_ms // 2)
            elif act.do in ("pause", "release", "resume"):
                getattr(self._commands, act.do)({"job": act.job})
            else:
                yuan = f"{cap_micros // 1_000_000}.{cap_micros % 1_000_000:06d}"
                self._commands.budget_set({"scope": "job", "name": act.job, "yuan": yuan})
        except (UserError, StoreUnavailable):
            return False
        return True

    def break_store(self, kind: str | None) -> None:
        """Disk full, locked, or well again."""
        self._broken = kind
        self._store.broken = kind

    # ------------------------------------------------------------------ the books

    def _on_commit(self) -> None:
        self._books = None
        if not self._is_watched:
            return
        new = self._eye.execute(NEW_ENTRIES, (self._audited,)).fetchall()
        judge = self._world.judge
        by_id = {job.id: job for job in self.books()}
        for entry_id, kind, job_id, amount, covered in new:
            self._audited = entry_id
            self._world.trace(f"{kind} {job_id} {amount} {covered}")
            if kind == "reserve":
                judge.on_grant(by_id[job_id], self.books())
            elif kind == "settle":
                judge.on_settle(by_id[job_id])
            elif kind == "charge" and covered < amount:
                alarmed = self._eye.execute(ALARMED, (job_id,)).fetchone()[0]
                judge.on_overrun(by_id[job_id], alarmed)
        for job in by_id.values():
            if job.state in FINAL:
                judge.on_final(job)

    def books(self) -> Sequence[JobBooks]:
        """Every job as the database has it."""
        if self._books is None:
            self._books = tuple(_job(row) for row in self._eye.execute(JOBS))
        return self._books

    def posted_of(self, machine_id: str) -> int:
        """What is posted for one machine."""
        found: int = self._eye.execute(POSTED, (machine_id,)).fetchone()[0]
        return found

    def broken_books(self) -> list[str]:
        """Links of the hash chain that do not hold, and what SQLite finds."""
        with Store.read(self._store) as session:
            broken = [f"entry {number} breaks the chain" for number in broken_links(session)]
        found = self._eye.execute("PRAGMA integrity_check").fetchone()[0]
        return broken if found == "ok" else [*broken, found]


def _job(row: tuple[Any, ...]) -> JobBooks:
    names = [field.name for field in fields(JobBooks)]
    found = dict(zip(names, row, strict=True))
    found["machines"] = tuple(sorted(row[10].split(","))) if row[10] else ()
    return JobBooks(**found)
