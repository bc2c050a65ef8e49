"""The loop: which job's pass is due, and one hanging account never delays another job's stop."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from sqlalchemy import select

from costguard.core.moment import Moment, ms_until
from costguard.daemon.passes import JobPasses
from costguard.store.database import StoreUnavailable
from costguard.store.models import Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from costguard.daemon.context import Context

log = logging.getLogger("costguard.loop")

# The wait is cut into pieces this long: a suspended machine's waits do not count its sleep.
LONGEST_WAIT_MS = 1_000
# A pass that fails for a reason of our own is tried again so soon.
FAILED_PASS_RETRY_MS = 2_000


class Loop:
    """Runs the passes of every job that may still cost money."""

    def __init__(
        self,
        context: Context,
        executor: Executor,
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """`alive` is called by `run` again and again while passes succeed, or none is due."""
        self._context, self._alive = context, alive
        self._failing: set[int] = set()
        self._executor = executor
        self._passes: dict[int, JobPasses] = {}
        self._due: dict[int, Moment] = {}
        self._busy: set[int] = set()
        self._woken: set[int] = set()
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._stopping = False

    def wake(self, job_id: int | None = None) -> None:
        """Have one job's pass run now; None looks for new jobs as well."""
        with self._lock:
            if job_id is not None:
                self._woken.add(job_id)
            else:
                self._woken.update(self._passes)
        self._event.set()

    def stop(self) -> None:
        """Let the passes in flight finish, then return from `run`."""
        self._stopping = True
        self._event.set()

    def run(self) -> None:
        """Until stopped: start what is due, then wait for the nearest deadline or a wake-up."""
        while not self._stopping:
            self._event.clear()
            wait_ms = self.step()
            if not self._failing:
                self._alive()
            self._event.wait(wait_ms / 1000)
        self._executor.shutdown(wait=True)
        for passes in self._passes.values():
            passes.close()

    def step(self) -> int:
        """Start every pass that is due; returns in how many milliseconds to look again."""
        for job_id in self._take_due():
            self._executor.submit(self._run_pass, job_id)
        return self._wait_ms()

    def passes(self, job_id: int) -> JobPasses | None:
        """The passes of one job, for what the screen wants to know."""
        return self._passes.get(job_id)

    def _take_due(self) -> list[int]:
        now = self._context.clock.now()
        live = self._live_jobs()
        with self._lock:
            for job_id in live - self._passes.keys():
                self._passes[job_id] = JobPasses(self._context, job_id, self._waker(job_id))
                self._due[job_id] = now
            for job_id in self._passes.keys() - live - self._busy:
                self._passes.pop(job_id).close()
                self._due.pop(job_id, None)
                self._failing.discard(job_id)
            self._woken &= self._passes.keys()  # whoever is gone has nobody to be woken for
            due = [
                job_id
                for job_id, at in self._due.items()
                if job_id not in self._busy and (job_id in self._woken or ms_until(at, now) == 0)
            ]
            self._busy.update(due)
            self._woken.difference_update(due)
            return due

    def _live_jobs(self) -> set[int]:
        """Every job that may still cost something; the known ones while nothing can be read."""
        try:
            with self._context.store.read() as session:
                return set(session.scalars(select(Job.id).where(Job.state != "released")))
        except StoreUnavailable as error:
            self._context.notify("alarm", "all jobs", f"the database cannot be read: {error}")
            return set(self._passes)

    def _wait_ms(self) -> int:
        now = self._context.clock.now()
        with self._lock:
            waits = [ms_until(at, now) for job, at in self._due.items() if job not in self._busy]
            if self._woken - self._busy:
                return 0
        return min([LONGEST_WAIT_MS, *waits])

    def _waker(self, job_id: int) -> Callable[[], None]:
        return lambda: self.wake(job_id)

    def _run_pass(self, job_id: int) -> None:
        next_ms = FAILED_PASS_RETRY_MS
        try:
            next_ms = self._passes[job_id].run()
            self._failing.discard(job_id)
        except Exception as error:
            # The loop outlives every bug of a pass; the next one starts from the database again.
            self._failing.add(job_id)
            log.exception("the pass of job %d failed", job_id)
            self._context.notify("alarm", f"job {job_id}", f"a pass failed: {error!r}")
        finally:
            with self._lock:
                self._busy.discard(job_id)
                self._due[job_id] = self._context.clock.now().plus_ms(next_ms)
            self._event.set()
