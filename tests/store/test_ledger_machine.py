from __future__ import annotations

import copy
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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

from costguard.store import backup, ledger
from costguard.store.database import Store
from costguard.store.head import HeadState, head_path, read_head
from costguard.store.ledger import Caps, DoesNotFit, Place
from costguard.store.models import Job, LeaseRow, LedgerEntry, PowerInterval
from costguard.store.verify import verify
from tests.store.rows import YUAN, add_interval, add_job, add_lease

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MONTH_CAP, PROJECT_CAP, JOB_CAP = 150, 130, 100
CAPS = Caps(MONTH_CAP * YUAN, {"p": PROJECT_CAP * YUAN})
NAMES = ("one", "two", "other")
PROJECTS = {"one": "p", "two": "p", "other": "q"}
WHO = st.sampled_from(NAMES)
AMOUNT = st.integers(0, 60)


@dataclass
class Model:
    """One job's books as a child would keep them, in yuan."""

    cap: int = JOB_CAP
    posted: int = 0
    held: int = 0
    hold: int = 0
    running: int = 0  # posted for the open running interval
    disk: int = 0
    leased: bool = False
    seq: int = 0
    settled: int = 0
    entries: int = field(default=0)


class LedgerMachine(RuleBasedStateMachine):
    """Reserve, charge, correct, settle, restart, back up and restore, in any order.

    Three jobs under three kinds of cap, held against a model that adds in its head.
    """

    template: Path
    backup: tuple[Path, dict[str, Model], dict[tuple[str, str], int]] | None = None
    now = backed_up = 0

    @initialize()
    def open(self) -> None:
        """An empty database and three jobs with an interval of each kind."""
        self.folder = Path(tempfile.mkdtemp(prefix="costguard-ledger-"))
        self.path = self.folder / "costguard.db"
        self.path.write_bytes(self.template.read_bytes())
        self.store = Store(self.path)
        assert self.store.check_head() is HeadState.MISSING
        self.lagging = head_path(self.path).read_text()
        self.now = self.backed_up = 0
        self.models = {name: Model() for name in NAMES}
        self.ids: dict[tuple[str, str], int] = {}
        with self.store.write() as session:
            for name in NAMES:
                job = add_job(session, name, JOB_CAP, PROJECTS[name])
                self.ids[name, "job"] = job.id
                self.ids[name, "running"] = add_interval(session, job).id
                self.ids[name, "disk"] = add_interval(session, job, "disk").id

    def teardown(self) -> None:
        """Close, and leave nothing."""
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    # -------------------------------------------------------------------------- rules

    @rule(name=WHO, yuan=st.integers(0, 20))
    def hold_disk(self, name: str, yuan: int) -> None:
        """Set the disk's part of the cap, as the first pass of a job does."""
        model = self.models[name]
        if model.leased or model.posted or model.hold:
            return
        with self.store.write() as session:
            self._job(session, name).hold_micros = yuan * YUAN
        model.hold = yuan

    @rule(name=WHO, yuan=AMOUNT)
    def reserve(self, name: str, yuan: int) -> None:
        """Granted exactly when every scope has room for it."""
        model, fits = self.models[name], yuan <= self._room(name)
        self.now += 1
        try:
            with self.store.write() as session:
                job = self._job(session, name)
                lease = self._lease(session, name) if model.leased else add_lease(session, job)
                lease.seq = model.seq + 1
                ledger.reserve(session, job, lease, yuan * YUAN, CAPS, self.now, "2026-11")
                self.ids[name, "lease"] = lease.id
            granted = True
        except DoesNotFit:
            granted = False
        assert granted == fits
        if granted:
            model.leased, model.seq = True, model.seq + 1
            model.held += yuan
            model.entries += 1

    @rule(name=WHO, more=AMOUNT)
    def charge(self, name: str, more: int) -> None:
        """Covered as far as the lease holds; the rest is the overrun."""
        model = self.models[name]
        owed = model.running + more
        overrun = self._charge(name, "running", owed, leased=model.leased)
        covered = min(more, model.held) if model.leased else 0
        assert overrun == more - covered
        model.held -= covered
        model.posted += more
        model.running = owed
        model.entries += more > 0

    @rule(name=WHO)
    def charge_again(self, name: str) -> None:
        """The same figure a second time adds nothing."""
        model = self.models[name]
        assert self._charge(name, "running", model.running, leased=model.leased) == 0

    @rule(name=WHO, more=st.integers(0, 5))
    def charge_disk(self, name: str, more: int) -> None:
        """Paid from the hold, never from the lease."""
        model = self.models[name]
        assert self._charge(name, "disk", model.disk + more, leased=True) == 0
        model.disk += more
        model.posted += more
        model.hold = max(model.hold - more, 0)
        model.entries += more > 0

    @rule(name=WHO, owed=st.integers(0, 120))
    def adjust(self, name: str, owed: int) -> None:
        """A correction moves what is posted, and nothing that is reserved."""
        model = self.models[name]
        self.now += 1
        with self.store.write() as session:
            interval = session.get_one(PowerInterval, self.ids[name, "running"])
            job = self._job(session, name)
            ledger.adjust(session, job, interval, owed * YUAN, "a bill", self.now, "2026-11")
        model.entries += owed != model.running
        model.posted += owed - model.running
        model.running = owed

    @rule(name=WHO)
    def settle(self, name: str) -> None:
        """What is left is given back, and the lease is closed."""
        model = self.models[name]
        if not model.leased:
            return
        self.now += 1
        with self.store.write() as session:
            lease = self._lease(session, name)
            ledger.settle(session, self._job(session, name), lease, self.now, "2026-11")
        model.leased, model.held = False, 0
        model.entries += 1

    @rule(name=WHO, yuan=st.integers(0, 140))
    def set_cap(self, name: str, yuan: int) -> None:
        """Up or down, below what is spent too: nothing is granted then, facts are still booked."""
        with self.store.write() as session:
            self._job(session, name).cap_micros = yuan * YUAN
        self.models[name].cap = yuan

    @rule(name=WHO, more=AMOUNT)
    def fail_in_the_midst(self, name: str, more: int) -> None:
        """What a transaction wrote before it failed was never there."""
        model = self.models[name]
        with pytest.raises(ZeroDivisionError), self.store.write() as session:
            interval = session.get_one(PowerInterval, self.ids[name, "running"])
            owed, job = (model.running + more) * YUAN, self._job(session, name)
            place = Place(0, "train")
            ledger.charge(session, job, interval, None, owed, self.now, place, 1, "2026-11")
            raise ZeroDivisionError

    @rule(is_lagging=st.booleans())
    def restart(self, is_lagging: bool) -> None:
        """A new daemon finds the books as they were; a head that lags is in order."""
        head = head_path(self.path)
        self.store.close()
        if is_lagging:
            head.write_text(self.lagging)
        else:
            self.lagging = head.read_text()
        self.store = Store(self.path)
        assert self.store.check_head().is_sound

    @precondition(lambda self: self.now >= self.backed_up + 4)
    @rule()
    def back_up(self) -> None:
        """A copy of now, of which only the last is kept."""
        target = self.folder / f"backup-{self.now}-{len(list(self.folder.iterdir()))}.db"
        assert backup.back_up(self.path, target, self.now).findings == ()
        self.backup = (target, copy.deepcopy(self.models), dict(self.ids))
        self.backed_up = self.now

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        """The books and the model as they were then; they go on from there."""
        assert self.backup is not None
        target, models, ids = self.backup
        self.store.close()
        self.now += 1
        backup.restore(self.path, target, self.now)
        self.models, self.ids = copy.deepcopy(models), dict(ids)
        self.store = Store(self.path)
        assert self.store.check_head() is HeadState.SAME
        self.lagging = head_path(self.path).read_text()

    # -------------------------------------------------------------------------- what must hold

    @invariant()
    def the_books_and_the_model_agree(self) -> None:
        """Posted, pending and held of every scope, to the micro-yuan."""
        if not hasattr(self, "store"):
            return
        kept = read_head(head_path(self.path))
        with self.store.read() as session:
            assert verify(session, kept).findings == ()
            pending = ledger.pending_by_job(session)
            for name, model in self.models.items():
                assert pending.get(self.ids[name, "job"], 0) == model.held * YUAN
                found = ledger.accounts(session, self._job(session, name), CAPS, ("2026-11",))
                own = found[0]
                assert own.posted_micros == model.posted * YUAN
                assert own.pending_micros == model.held * YUAN
                assert own.hold_micros == model.hold * YUAN
                assert found[-1].committed_micros == self._committed(NAMES) * YUAN
            entries = session.query(LedgerEntry).count()
            assert entries == sum(model.entries for model in self.models.values())

    # -------------------------------------------------------------------------- helpers

    def _room(self, name: str) -> int:
        peers = [each for each in NAMES if PROJECTS[each] == "p"]
        room = [self.models[name].cap - self._committed([name]), MONTH_CAP - self._committed(NAMES)]
        if name in peers:
            room.append(PROJECT_CAP - self._committed(peers))
        return min(room)

    def _committed(self, names: list[str] | tuple[str, ...]) -> int:
        models = [self.models[name] for name in names]
        return sum(model.posted + model.held + model.hold for model in models)

    def _charge(self, name: str, kind: str, owed: int, *, leased: bool) -> int:
        self.now += 1
        with self.store.write() as session:
            interval = session.get_one(PowerInterval, self.ids[name, kind])
            lease = self._lease(session, name) if leased and (name, "lease") in self.ids else None
            job, place = self._job(session, name), Place(0, "train")
            args = (lease, owed * YUAN, self.now, place, self.now, "2026-11")
            return ledger.charge(session, job, interval, *args) // YUAN

    def _job(self, session: Session, name: str) -> Job:
        return session.get_one(Job, self.ids[name, "job"])

    def _lease(self, session: Session, name: str) -> LeaseRow:
        return session.get_one(LeaseRow, self.ids[name, "lease"])


@pytest.mark.usefixtures("checked")
def test_the_ledger_behaves_like_a_very_simple_one(
    empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order it is called, every call with the invariants checked around it."""
    monkeypatch.setattr(LedgerMachine, "template", empty_database, raising=False)
    monkeypatch.setattr(backup, "upgrade", lambda _: None)  # all of these are of the newest schema
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=500 if os.environ.get("COSTGUARD_TEST_FULL") else 10,
            stateful_step_count=25,
        ),
    )
