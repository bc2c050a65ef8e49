"""The daemon in a world of its own: real parts, real SQLite; clock, platform and agents in memory.

Nothing waits and nothing runs beside: `tick` moves the clock, lets the platform and the agents
live up to it, and then has the daemon do whatever is due, on this thread.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from sqlalchemy import event, select

from costguard.core.spec import GuardLimits, InstanceWish, JobSpec, Run
from costguard.daemon.chores import Chores
from costguard.daemon.commands import Commands
from costguard.daemon.context import Context
from costguard.daemon.load import platform_of
from costguard.daemon.loop import Loop
from costguard.store import sums
from costguard.store.database import Store, StoreUnavailable
from costguard.store.ledger import Caps, posted_micros
from costguard.store.models import Event, Instance, Intent, Job, LeaseRow, LedgerEntry
from tests.daemon.books import Auditor
from tests.daemon.fake_agent import FakeAgent, FakeLink, Line, Script
from tests.daemon.fake_clock import FakeClock
from tests.daemon.fake_cloud import FACTS, FakeCloud, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

    from costguard.providers.base import ProviderFacts
    from costguard.remote.link import Link, LinkPlan
    from costguard.store.head import Head

ZONE = ZoneInfo("Asia/Shanghai")
FINAL = ("paused", "finished", "failed", "released")
YUAN = 1_000_000
LEASE_MS = 20_000
GRACE_MS = 4_000
LATENCY_MS = GRACE_MS + FACTS.stop_latency_ms + FACTS.timer_lateness_ms
# Beside its first lease: until a second instance of its call was listed and has stopped.
DOUBLE_MS = platform_of(FACTS).double_ms
MOST_ROUNDS = 50  # passes that wake each other within one instant


class Killed(BaseException):
    """The daemon's process ends here, as by SIGKILL; no handler of its own sees it."""


class InlineExecutor(Executor):
    """Runs what is submitted at once, on the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it; only a death of the process gets through."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class WatchedStore(Store):
    """The real store, quick for tests, that can fail, be killed, and is audited at each commit."""

    def __init__(self, path: Path, audit: Callable[[], None], point: Callable[[str], None]) -> None:
        super().__init__(path)
        self._audit, self._point = audit, point
        self.is_broken = False
        self.breaks_reads = False
        self.fails_writes = 0  # so many fail, after `fails_after` more
        self.fails_after = 0

        @event.listens_for(self._writer, "connect")
        def _quick(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA synchronous=OFF")  # no power cut comes to a test

    @contextmanager
    def write(self) -> Iterator[Session]:
        """As the real one: all of it is committed, or nothing."""
        if self.is_broken or self._fails_now():
            raise StoreUnavailable("the database said: disk full")
        self._point("write")
        with super().write() as session:
            yield session
            session.flush()
            self._point("flushed")
        self._point("written")
        self._audit()

    def _keep_head(self, head: Head) -> None:
        self._point("committed")
        super()._keep_head(head)

    def _fails_now(self) -> bool:
        if self.fails_writes == 0:
            return False
        self.fails_after -= 1
        if self.fails_after >= 0:
            return False
        self.fails_writes -= 1
        return True

    def limit_pages(self, *, full: bool) -> None:
        """Have SQLite refuse to grow the database, or let it grow again."""
        with self._writer.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            limit = pages if full else 1_000_000
            connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """As the real one."""
        if self.breaks_reads:
            raise StoreUnavailable("the database said: locked")
        with super().read() as session:
            yield session


def spec_of(name: str = "job", *, yuan: float = 5, **changes: Any) -> JobSpec:
    """A small job: leases of 20 s, 4 s to save, a cap of 5 yuan at 0.01 yuan a second."""
    run = Run(argv=("train",), save_grace_ms=changes.pop("save_grace_ms", GRACE_MS))
    run = replace(run, expects_adapter=changes.pop("expects_adapter", False))
    wish = InstanceWish(provider="fake", keep_for_ms=3_600_000)
    limits = GuardLimits(stall_floor_ms=10_000, idle_after_ms=8_000, silent_after_ms=5_000)
    spec = JobSpec(
        name=name,
        project="p",
        cap_micros=int(yuan * YUAN),
        best_effort=False,
        instance=replace(wish, **changes.pop("wish", {})),
        runs=(run,),
        guards=replace(limits, **changes.pop("guards", {})),
        lease_ms=LEASE_MS,
        long_leases=False,
        pull_to="home",
    )
    return replace(spec, **changes)


class World:
    """One daemon, one platform, and the time between them."""

    def __init__(
        self,
        folder: Path,
        template: Path,
        *,
        price: int = 36 * YUAN,
        quantum_s: int = 1,
        disk_price: int = 0,
        facts: ProviderFacts = FACTS,
    ) -> None:
        self.database = folder / "costguard.db"
        shutil.copy(template, self.database)
        self.clock = FakeClock()
        self.cloud = FakeCloud(
            self.clock, price=price, quantum_s=quantum_s, disk_price=disk_price, facts=facts
        )
        self.line = Line(self.clock, self.cloud)
        self.caps = Caps()
        self.notices: list[tuple[str, str, str]] = []
        self.points = 0
        self.kill_at: int | None = None  # the daemon dies at this point of its doings
        self.inside_commits = False  # whether the inside of a commit has points too
        self.on_point: Callable[[str], None] = lambda what: None
        self.restarts = 0
        self.passes_may_fail = False
        self.write_ms = 0  # how long each commit takes
        self.audit = Auditor(self)
        self.cloud.on_call = self._on_call
        self.cloud.on_done = lambda route: self._point(f"done {route}")
        self.line.on_lease = self.audit.on_agent_lease
        self.boot()

    # ------------------------------------------------------------------ the daemon

    def boot(self) -> None:
        """Start the daemon on what the database has."""
        self.store = WatchedStore(self.database, self.audit.on_commit, self._point)
        self.context = Context(
            store=self.store,
            clock=self.clock,
            provider=lambda name: self.cloud,
            link=self._open_link,
            notify=lambda level, job, text: self.notices.append((level, job, text)),
            caps=lambda: self.caps,
            zone=ZONE,
            installation="test",
            client_key_path=self.database.with_name("client_key"),
            client_public_key="ssh-ed25519 AAAA",
        )
        self.loop = Loop(self.context, InlineExecutor())
        self.commands = Commands(self.context, self.loop.wake, self.loop.passes)
        self.chores = Chores(self.context)

    def kill(self) -> None:
        """The daemon's process is gone; agents and platform live on."""
        self.line.cut()
        self.store.close()

    def restart(self, after_ms: int = 0) -> None:
        """Kill it, let time pass without it, and start it again."""
        self.kill()
        self.pass_time(after_ms)
        self.restarts += 1
        self.boot()

    def _open_link(self, plan: LinkPlan, wake: Callable[[], None]) -> Link:
        return cast("Link", self.line.open(plan, wake))

    def _on_call(self, route: str, target: str, timer_ms: int | None) -> None:
        self._point(f"call {route}")
        self.audit.on_call(route, timer_ms)

    def _point(self, what: str) -> None:
        if what in ("flushed", "committed") and not self.inside_commits:
            return
        self.points += 1
        self.on_point(what)
        self.clock.advance(self.write_ms if what == "written" else 0)
        if self.points == self.kill_at:
            raise Killed(what)

    # ------------------------------------------------------------------ time

    def pass_time(self, ms: int) -> None:
        """Time without the daemon: the platform and the agents live."""
        end_ms = self.clock.true_ms + ms
        while self.clock.true_ms < end_ms:
            self.clock.advance(min(1_000, end_ms - self.clock.true_ms))
            self.cloud.settle()
            self.line.tick()

    def tick(self, ms: int = 1_000) -> None:
        """One step of time, and everything that the daemon has to do at its end."""
        self.pass_time(ms)
        try:
            self.work()
        except Killed:
            self.kill_at = None
            self.restart()
            self.work()

    def work(self) -> None:
        """Let the daemon do what is due now, however often it wakes itself."""
        for _ in range(MOST_ROUNDS):
            wait_ms = self.loop.step()
            failed = self.alarms("a pass failed")
            assert self.passes_may_fail or not failed, failed
            if wait_ms > 0:
                return
        raise AssertionError("the daemon does not come to rest")

    def run(self, seconds: int) -> None:
        """So many ticks of a second."""
        for _ in range(seconds):
            self.tick()

    def until(self, condition: Callable[[], Any], within_s: int = 120, what: str = "") -> None:
        """Ticks until the condition holds; AssertionError if it does not within that time."""
        for _ in range(within_s):
            if condition():
                return
            self.tick()
        assert condition(), f"{what or 'the condition'} did not come within {within_s} s"

    def until_state(self, *states: str, within_s: int = 120, name: str = "job") -> None:
        """Ticks until the job is in one of these states."""
        self.until(lambda: self.job(name).state in states, within_s, " or ".join(states))

    def until_final(self, within_s: int = 120, name: str = "job") -> None:
        """Ticks until the job has ended, one way or another."""
        self.until_state(*FINAL, within_s=within_s, name=name)

    # ------------------------------------------------------------------ what a test asks

    def submit(self, spec: JobSpec | None = None, key: str = "") -> dict[str, Any]:
        """Hand a job to the daemon."""
        wanted = spec or spec_of()
        return self.commands.submit({"spec": wanted.to_json(), "key": key or wanted.name})

    def start_training(self, spec: JobSpec | None = None) -> Machine:
        """Submit, and tick until its training runs; the machine that it runs on."""
        self.submit(spec)
        self.until_state("training", within_s=30, name=(spec or spec_of()).name)
        return self.cloud.machines[-1]

    def job(self, name: str = "job") -> Job:
        """The job's row."""
        with Store.read(self.store) as session:
            return session.scalars(select(Job).where(Job.name == name)).one()

    def rows(self, model: type[Any], *where: Any) -> list[Any]:
        """Rows of a table, oldest first."""
        with Store.read(self.store) as session:
            return list(session.scalars(select(model).where(*where).order_by(model.id)))

    def events(self, *kinds: str) -> list[Event]:
        """Events of these kinds, oldest first."""
        return self.rows(Event, Event.kind.in_(kinds))

    def intents(self, kind: str) -> list[Intent]:
        """Intents of a kind."""
        return self.rows(Intent, Intent.kind == kind)

    @property
    def instances(self) -> list[Instance]:
        """The daemon's instance rows."""
        return self.rows(Instance)

    @property
    def lease(self) -> LeaseRow | None:
        """The open lease, if there is one."""
        found = self.rows(LeaseRow, LeaseRow.state == "open")
        return found[-1] if found else None

    @property
    def agent(self) -> FakeAgent:
        """The agent that was started last."""
        return next(reversed(self.line.agents.values()))

    @property
    def link(self) -> FakeLink:
        """The daemon's newest link."""
        return self.line.links[-1]

    def posted(self, name: str = "job") -> int:
        """What the ledger has charged the job, in micro-yuan."""
        with Store.read(self.store) as session:
            return posted_micros(session, job_id=self.job(name).id)

    def pending(self, name: str = "job") -> int:
        """What the job has reserved and not used, in micro-yuan."""
        with Store.read(self.store) as session:
            return sums.pending(sums.by_kind(session, job_id=self.job(name).id))

    def ledger(self) -> list[LedgerEntry]:
        """The entries of the books, oldest first."""
        return self.rows(LedgerEntry)

    def alarms(self, word: str = "") -> list[str]:
        """What was said in alarm."""
        return [text for level, _, text in self.notices if level == "alarm" and word in text]

    def assert_books(self) -> None:
        """The ledger agrees with the platform's own bill, and nothing is left running."""
        self.audit.final_check()

    def set_script(self, **changes: Any) -> None:
        """What trainings launched from now on do."""
        self.line.script = replace(Script(), **changes)
