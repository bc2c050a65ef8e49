from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from costguard.errors import UserError
from costguard.providers.base import NoCapacity, Unclear
from costguard.store.database import StoreUnavailable
from costguard.store.ledger import Caps
from tests.daemon.books import PENDING, POSTED
from tests.daemon.fake_agent import Script
from tests.daemon.model import ENDED, LEASE_MS, OFF_MS, JobModel, Surroundings
from tests.daemon.world import FINAL, YUAN, World, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from costguard.store.models import Job
    from tests.daemon.fake_cloud import Machine

FULL = bool(os.environ.get("COSTGUARD_TEST_FULL"))
WHO = st.sampled_from(("one", "two"))
FEN = st.integers(20, 500)
SECONDS = st.integers(1, 60)
KEEP_MS = 4 * 3_600_000  # longer than any of these stories
ALONE_S, REST_S = 40, 2_000  # what trains goes on for so long when all is healed; and then ends

# What can be broken for a while: how it is done, anew before each second that it lasts.
FAULTS: dict[str, Callable[[World], object]] = {
    "stop": lambda world: world.cloud.fail("stop"),
    "stop answers late": lambda world: world.cloud.fail("stop", after=True),
    "stop ignored": lambda world: setattr(world.cloud.habits, "stop_ignored", 1_000),
    "off but billing": lambda world: setattr(world.cloud.habits, "off_but_billing", True),
    "read": lambda world: world.cloud.fail("read"),
    "not there": lambda world: setattr(world.cloud.habits, "is_absent", True),
    "too many reads": lambda world: world.cloud.fail("read", Unclear("429", 30.0)),
    "list": lambda world: world.cloud.fail("list"),
    "quote": lambda world: world.cloud.fail("quote"),
    "create": lambda world: world.cloud.fail("create"),
    "create answers late": lambda world: world.cloud.fail("create", after=True),
    "start": lambda world: world.cloud.fail("start"),
    "start answers late": lambda world: world.cloud.fail("start", after=True),
    "release answers late": lambda world: world.cloud.fail("release", after=True),
    "arm": lambda world: world.cloud.fail("arm_timer"),
    "arm is forgotten": lambda world: setattr(world.cloud.habits, "timer_lost", True),
    "no timer at create": lambda world: setattr(world.cloud.habits, "timer_lost_at_create", True),
    "unknown": lambda world: setattr(world.cloud.habits, "hides_power", True),
    "arm answers late": lambda world: world.cloud.fail("arm_timer", after=True),
    "timer": lambda world: setattr(world.cloud.habits, "timer_ignored", True),
    "guest": lambda world: setattr(world.cloud.habits, "guest_stop_ignored", True),
    "line": lambda world: setattr(world.line, "is_down", True),
    "database": lambda world: setattr(world.store, "is_broken", True),
}


def no_capacity(world: World) -> None:
    """Nothing to rent, and no card for what was rented."""
    world.cloud.habits.no_capacity = True
    world.cloud.fail("start", NoCapacity("no card is free"))


FAULTS["capacity"] = no_capacity


class DaemonMachine(RuleBasedStateMachine):
    """A person, a platform and a daemon that all do as they like, held against the model.

    The daemon's passes, database and commands are the real ones; what surrounds them is not.
    """

    template: ClassVar[Path]
    clock_was_set = False
    clock_is_true = True  # it was never set to another time

    @initialize(
        quantum_s=st.sampled_from((1, 7, 60)),
        disk_price=st.sampled_from((0, 180_000)),
        month_yuan=st.sampled_from((None, 4)),
        fen=st.integers(200, 500),
        seconds=st.integers(0, 25),
        broken=st.sampled_from((None, None, "create answers late", *sorted(FAULTS))),
    )
    def begin(
        self,
        quantum_s: int,
        disk_price: int,
        month_yuan: int | None,
        fen: int,
        seconds: int,
        broken: str | None,
    ) -> None:
        """A world with one job that would run for long, and with something broken, or nothing."""
        self.folder = Path(tempfile.mkdtemp(prefix="costguard-daemon-"))
        self.world = world = World(
            self.folder, self.template, quantum_s=quantum_s, disk_price=disk_price
        )
        self.month_cap = None if month_yuan is None else month_yuan * YUAN
        world.caps = Caps(self.month_cap)
        world.cloud.habits.stop_ms = 2_500  # within the 3 s that the platform promises
        world.cloud.habits.dates_answers = True  # as every HTTP platform does
        world.inside_commits = True
        world.on_point = self._on_point
        world.line.on_lease = self._on_agent_lease
        self.around = Surroundings()
        self.jobs: dict[str, JobModel] = {}
        self.until_ms: dict[str, int] = {}
        self.states: dict[str, str] = {}
        self.exited_0: set[str] = set()
        self.granted = 0
        self.blurred = False  # a new boot and a wall set back: no clock knows how long it was
        self.submit("one", fen, steps=600)
        if broken is not None:
            self.break_for_a_while(broken, 30)
        self.wait(seconds)

    def teardown(self) -> None:
        """Everything works again: it all comes to rest, off and booked."""
        if not hasattr(self, "world"):
            return
        try:
            self._come_to_rest()
        finally:
            self.world.kill()
            shutil.rmtree(self.folder)

    # ---------------------------------------------------------------- what the person does

    @rule(name=WHO, fen=FEN, steps=st.integers(3, 300), code=st.sampled_from((0, 0, 1)))
    def order(self, name: str, fen: int, steps: int, code: int) -> None:
        """Another job, as a rule of its own: the first one is there from the start."""
        self.submit(name, fen, steps, code)

    def submit(self, name: str, fen: int, steps: int, code: int = 0) -> None:
        """A job with a cap; it is refused only where that cannot pay for a first lease."""
        if name in self.jobs:
            return
        cap, world = fen * YUAN // 100, self.world
        world.line.script = Script(steps=steps, exit_code=code)
        model = JobModel([cap], wished_ms=world.clock.true_ms)
        self.jobs[name] = model
        spec = replace(spec_of(name, wish={"keep_for_ms": KEEP_MS}), cap_micros=cap)
        taken = self._ask(lambda: world.submit(spec))
        if not taken:
            del self.jobs[name]
        lease_ms, quantum_ms = LEASE_MS + OFF_MS, world.cloud.quantum_s * 1_000
        hold = world.cloud.disk_price * 4
        least = hold + world.cloud.price * lease_ms // 3_600_000
        most = least + 2 * world.cloud.price * quantum_ms // 3_600_000
        assert not taken or cap >= least, "taken, and the first lease does not fit"
        lone = self.month_cap is None and not self.until_ms
        assert taken or cap < most or not lone, "refused, and the first lease fits"

    @precondition(lambda self: self.jobs)
    @rule(name=WHO, wish=st.sampled_from(("pause", "resume", "release", "resume")))
    def ask(self, name: str, wish: str) -> None:
        """Pause, resume or release, whenever."""
        if name not in self.jobs or self.states.get(name) == "released":
            return
        if self._ask(lambda: getattr(self.world.commands, wish)({"job": name})):
            model = self.jobs[name]
            model.wish = "run" if wish == "resume" else wish
            model.wished_ms = self.world.clock.true_ms

    @precondition(lambda self: self.jobs)
    @rule(name=WHO, fen=st.integers(1, 600))
    def set_budget(self, name: str, fen: int) -> None:
        """Up or down, below what is spent too."""
        if name not in self.jobs:
            return
        order = {"scope": "job", "name": name, "yuan": f"{fen / 100:.2f}"}
        if self._ask(lambda: self.world.commands.budget_set(order)):
            self.jobs[name].caps.append(fen * YUAN // 100)

    @precondition(lambda self: self._off())
    @rule(which=st.integers(0, 1))
    def switch_on_by_hand(self, which: int) -> None:
        """Somebody switches a paused machine on in the platform's console."""
        name, machine = self._off()[which % len(self._off())]
        self.jobs[name].by_hand = True
        self.jobs[name].wished_ms = self.world.clock.true_ms
        self.around.was_calm = False
        self.world.cloud.switch_on(machine)

    # ---------------------------------------------------------------- what happens to it

    @rule(seconds=SECONDS)
    def wait(self, seconds: int) -> None:
        """Time passes."""
        for _ in range(seconds):
            self._second()

    @rule(what=st.sampled_from(sorted(FAULTS)), seconds=st.integers(2, 150))
    def break_for_a_while(self, what: str, seconds: int) -> None:
        """One thing does not work, beside whatever else does not."""
        self.until_ms[what] = self.world.clock.true_ms + seconds * 1_000
        self._apply()

    @rule(seconds=st.integers(1, 100), how=st.sampled_from(("asleep", "killed", "rebooted")))
    def daemon_away(self, seconds: int, how: str) -> None:
        """Its process is gone and comes back, or its machine sleeps, or boots anew."""
        if how != "asleep":
            self.world.kill()
        self.around.broken.add("daemon")
        for _ in range(seconds):
            self._second(work=False)
        self.around.broken.discard("daemon")
        if how == "rebooted":
            self.blurred = self.blurred or self.clock_was_set
            self.world.clock.reboot(after_ms=0)
        if how != "asleep":
            self.world.boot()
        self._apply()

    @rule(points=st.integers(1, 60))
    def kill_soon(self, points: int) -> None:
        """The process will die in the midst of something, and start again at once."""
        self.world.kill_at = self.world.points + points

    @rule(minutes=st.integers(-5, 5))
    def set_clock(self, minutes: int) -> None:
        """The wall clock is set."""
        self.around.was_calm = self.around.was_calm and minutes == 0
        self.clock_was_set = self.clock_was_set or minutes < 0
        self.clock_is_true = self.clock_is_true and minutes == 0
        self.blurred = self.blurred or (minutes < 0 and self.world.clock.boot_id != "boot-1")
        self.world.clock.set_wall(minutes * 60_000)

    @rule(percent=st.integers(50, 300))
    def change_price(self, percent: int) -> None:
        """Another price, for what runs too."""
        cloud = self.world.cloud
        price = 360_000 * percent
        if price == cloud.price:
            return
        self.around.was_calm = False
        if price > cloud.price:
            for model in self.jobs.values():
                model.risen_ms = self.world.clock.true_ms
        cloud.set_price(price)

    @rule(hangs=st.booleans())
    def training_turns(self, hangs: bool) -> None:
        """What trains is done now, or hangs from here on."""
        for agent in self.world.line.agents.values():
            steps = agent.steps_done
            change = {"hangs_at": steps} if hangs else {"steps": steps, "hangs_at": None}
            agent.script = replace(agent.script, **change)

    # ---------------------------------------------------------------- what must hold

    @invariant()
    def the_model_is_content(self) -> None:
        """What is shown, what was asked for and what the platform does belong together."""
        if not hasattr(self, "world"):
            return
        now_ms = self.world.clock.true_ms
        for name, model in self.jobs.items():
            state, machine = self.states[name], self._machine(name)
            charged = machine is not None and machine.is_charged
            model.followed(self.around, state, charged, now_ms)
            if machine is None:
                continue
            if charged and "daemon" not in self.around.broken:
                stops = [
                    at
                    for at, route, target in self.world.cloud.calls
                    if route == "stop" and target == machine.id
                ]
                model.keeps_trying(self.around, state, stops, now_ms)
            if model.looked_ms == now_ms and "database" not in self.around.broken:
                self._compare(name, machine)

    # ---------------------------------------------------------------- how it goes

    def _second(self, *, work: bool = True) -> None:
        world = self.world
        world.pass_time(1_000)
        self._apply()
        if work:
            world.tick(0)
        for name, model in self.jobs.items():
            machine = self._machine(name)
            if machine is not None:
                bill = world.cloud.machine_micros(machine)
                model.lived(self.around, machine, bill, world.clock.true_ms)
        self.around.lived(world.clock.true_ms)

    def _apply(self) -> None:
        """What is broken now is broken, and all else is whole."""
        world, now_ms = self.world, self.world.clock.true_ms
        self.until_ms = {what: at for what, at in self.until_ms.items() if at > now_ms}
        away = self.around.broken & {"daemon"}
        if "timer" in self.around.broken and "timer" not in self.until_ms:
            for machine in world.cloud.machines:  # one whose time is over does not come true late
                missed = machine.timer_ms is not None and machine.timer_ms <= now_ms
                machine.timer_ms = None if missed else machine.timer_ms
        self.around.broken = set(self.until_ms) | away
        habits = world.cloud.habits
        habits.stop_ignored, habits.no_capacity, habits.is_absent = 0, False, False
        habits.timer_lost = habits.timer_lost_at_create = habits.hides_power = False
        habits.off_but_billing = habits.timer_ignored = habits.guest_stop_ignored = False
        world.line.is_down = world.store.is_broken = False
        world.cloud.heal()
        for what in self.until_ms:
            FAULTS[what](world)

    def _ask(self, command: Callable[[], Any]) -> bool:
        """Whether the daemon took it. It does not die of it: the client would ask again."""
        self.world.kill_at = None
        try:
            command()
        except (UserError, StoreUnavailable):
            return False
        return True

    def _on_point(self, what: str) -> None:
        """After each good read and each commit of the daemon."""
        if what == "done read":
            self._looked(self.world.cloud.calls[-1][2])
        if what != "written":
            return
        with closing(sqlite3.connect(self.world.database)) as database:
            newest = database.execute("select max(id) from ledger where kind = 'reserve'")
            granted = newest.fetchone()[0] or 0
            query = "select id, name, state, hold_micros from jobs"
            rows = database.execute(query).fetchall()
            if granted > self.granted:
                self.granted = granted
                self._check_grant(database, rows)
        for _, name, state, _ in rows:
            if state in ENDED and state != self.states.get(name):
                self.world.cloud.settle()
                machine = self._machine(name)
                code_0 = any(
                    record["t"] == "exit" and record["code"] == 0
                    for (where, _), journal in self.world.line.journals.items()
                    for record in journal
                    if machine is not None and where == machine.id
                )
                self.jobs[name].ended(state, machine, code_0=code_0)
            self.states[name] = state

    def _check_grant(self, database: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
        total = 0
        for job_id, name, _, hold in rows:
            query = f"select {POSTED} + {PENDING} from ledger where job_id = ?"
            committed = database.execute(query, (job_id,)).fetchone()[0] + hold
            grants = "select job_id from ledger where id = ?"
            if database.execute(grants, (self.granted,)).fetchone()[0] == job_id:
                self.jobs[name].granted(committed)
                self._check_lease(database, job_id, name, committed - hold)
            total += committed
        assert self.month_cap is None or total <= self.month_cap, "granted above the month's cap"

    def _check_lease(
        self, database: sqlite3.Connection, job_id: int, name: str, committed: int
    ) -> None:
        query = "select end_utc_ms from leases where job_id = ? and state = 'open'"
        (end_ms,) = database.execute(query, (job_id,)).fetchone()
        clock, price = self.world.clock, self.world.cloud.price
        end_ms += clock.true_ms - clock.now().utc_ms
        self.jobs[name].covered(committed, self._machine(name), clock.true_ms, end_ms, price)

    def _on_agent_lease(self, message: Mapping[str, Any]) -> None:
        """Before the daemon lets an agent go on."""
        query = "select name from jobs join leases on job_id = jobs.id where leases.id = ?"
        with closing(sqlite3.connect(self.world.database)) as database:
            lease_id = int(message["id"].partition(".")[0])
            (name,) = database.execute(query, (lease_id,)).fetchone()
        machine = self._machine(name)
        assert machine is not None, "an agent without a machine"
        if self.clock_is_true:
            self.jobs[name].armed(machine, self.world.clock.true_ms + message["valid_ms"])

    def _looked(self, machine_id: str) -> None:
        for name, model in self.jobs.items():
            machine = self._machine(name)
            if machine is not None and machine.id == machine_id:
                model.looked_ms = self.world.clock.true_ms

    def _machine(self, name: str) -> Machine | None:
        """The one machine of a job."""
        tag = f"costguard-test-{list(self.jobs).index(name) + 1}-"
        mine = [machine for machine in self.world.cloud.machines if machine.tag.startswith(tag)]
        assert len(mine) <= 1, f"{len(mine)} machines for {name}"
        return mine[0] if mine else None

    def _off(self) -> list[tuple[str, Machine]]:
        """What is off, and could be switched on by hand."""
        found = ((name, self._machine(name)) for name in self.jobs)
        return [
            (name, machine)
            for name, machine in found
            if machine is not None and machine.power == "stopped" and not machine.released_ms
        ]

    def _compare(self, name: str, machine: Machine) -> None:
        """The books are never the lower ones; undisturbed, they are a quantum off at most."""
        bill, books = self.world.cloud.machine_micros(machine), self.world.posted(name)
        away_s = (self.world.clock.true_ms - machine.created_ms) // 1_000 if self.blurred else 0
        bill -= away_s * self.world.cloud.disk_price // 3_600
        assert books >= bill - len(machine.runs) - 1, f"{books} booked, {bill} billed for {name}"
        if self.around.was_calm:
            assert books - bill <= self.world.cloud.tolerance_micros(machine) + 100

    def _come_to_rest(self) -> None:
        self.until_ms.clear()
        self.world.kill_at = None
        self._apply()
        for second in range(REST_S):
            self._second()
            if second == ALONE_S:
                self.training_turns(hangs=False)
            if all(state in FINAL for state in self.states.values()):
                break
        for _ in range(150):
            self._second()
        self.the_model_is_content()
        assert all(state in FINAL for state in self.states.values()), self.states
        assert not self.world.cloud.charged, "something is left running"
        for name in self.jobs:
            assert self.world.pending(name) == 0, f"{name} holds what it no longer needs"
            if self.around.was_calm:
                reasons = ("finished", "budget", "user", "stalled", "idle", "gate")
                job: Job = self.world.job(name)
                assert job.pause_reason in reasons, f"{name} was paused for {job.pause_reason}"
        if self.around.was_calm:
            self.world.assert_books()


@pytest.fixture
def ledger_calls() -> None:
    """Not here: those checks read the whole ledger around each call, and the model has its own."""


def test_the_daemon_keeps_to_a_very_simple_model(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the person, the platform, the clocks and the process itself do."""
    monkeypatch.setattr(DaemonMachine, "template", template, raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut comes to a test
    run_state_machine_as_test(
        DaemonMachine,
        settings=settings(
            max_examples=400 if FULL else 3,
            stateful_step_count=40 if FULL else 14,
            derandomize=not FULL,
            print_blob=True,
        ),
    )
