"""The daemon's composition root: the only place where the real parts are wired together."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

import costguard
from costguard import paths, sdnotify
from costguard.core.decide import FINAL_STATES
from costguard.daemon.accounts import LOCAL, account_names, local_settings, open_named
from costguard.daemon.chores import Chores
from costguard.daemon.clock import SystemClock
from costguard.daemon.commands import Commands
from costguard.daemon.context import Context
from costguard.daemon.drills import drill_plan, drilled
from costguard.daemon.embedded import Embedded
from costguard.daemon.head_check import check_head
from costguard.daemon.loop import Loop
from costguard.daemon.server import CommandServer, Handler
from costguard.errors import EXIT_INTERNAL, UserError
from costguard.notify.channels import Channels
from costguard.notify.outbox import Outbox
from costguard.remote.link import Link
from costguard.remote.ssh import make_client_key
from costguard.report.documents import read_answer
from costguard.settings import Settings, load_settings
from costguard.store.database import Store
from costguard.store.ledger import Caps
from costguard.store.migrate import upgrade
from costguard.store.models import Job, Meta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from costguard.providers.base import Provider

log = logging.getLogger("costguard")

# Each supervised job may hang in one platform call; beyond this many the rest would wait.
PASS_THREADS = 16
STOP_POLL_S = 0.2
ANSWERS = (
    "status",
    "report",
    "page",
    "events",
    "explain",
    "logs",
    "source",
    "result",
    "budget_show",
)
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "alarm": logging.ERROR}


class Daemon:
    """Everything that runs in the daemon's process."""

    def __init__(self, home: Path, settings: Settings) -> None:
        database = home / "costguard.db"
        upgrade(database)
        self.settings = settings
        self.store = Store(database)
        self.embedded = Embedded(home / "localcloud")
        self._providers: dict[str, Provider] = {}
        self._ended = threading.Event()
        self._config_changed_ns: int | None = None
        key_path = home / "client_key"
        self.context = Context(
            store=self.store,
            clock=SystemClock(),
            provider=self._provider,
            link=Link,
            notify=notify_log,
            caps=self._caps,
            zone=ZoneInfo(settings.timezone),
            installation=_installation_id(self.store),
            client_key_path=key_path,
            client_public_key=make_client_key(key_path),
            accounts=lambda: account_names(self.settings),
            stops_orphans=lambda: self.settings.stop_orphans,
        )
        executor = ThreadPoolExecutor(PASS_THREADS, thread_name_prefix="pass")
        self.loop = Loop(self.context, executor, alive=lambda: sdnotify.tell(sdnotify.ALIVE))
        self.commands = Commands(self.context, self.loop.wake, self.loop.passes)
        channels = Channels(lambda: self.settings)
        outbox = Outbox(self.store, channels, lambda: self.settings.notify, self.context.zone)
        self.chores = Chores(self.context, outbox)
        self.server = CommandServer(paths.socket_path(), self._handlers())

    def run(self) -> None:
        """Serve until stopped."""
        check_head(self.context)
        self.server.start()
        self.chores.start()
        sdnotify.tell(sdnotify.READY)
        log.info(
            "daemon %s runs for %s, pid %d", costguard.__version__, self.settings.home, os.getpid()
        )
        try:
            self.loop.run()
        finally:
            sdnotify.tell(sdnotify.ENDING)
            self.chores.stop()
            if self._unfinished() == 0 and LOCAL in self._providers:
                self.embedded.stop()
            self._ended.set()
            self.server.close()
            self.store.close()
            log.info("daemon ended")

    def stop(self) -> None:
        """End after the passes in flight; what runs on instances stays under its lease."""
        self.loop.stop()

    # ------------------------------------------------------------------ wiring

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            self._reread_config()  # an account may have been added since
        if name == LOCAL and self.settings.provider(LOCAL).base_url is None:
            self._providers[name] = self.embedded.provider(local_settings(self.settings))
        elif name not in self._providers:
            self._providers[name] = open_named(self.settings, name)
        return self._providers[name]

    def _caps(self) -> Caps:
        """The config's caps, read anew at each grant: a cap lowered at night counts at once."""
        self._reread_config()
        budgets = self.settings.budgets
        return Caps(budgets.month_micros, budgets.projects)

    def _reread_config(self) -> None:
        """Take the config as it is now; as it was, said aloud, where it is not understood."""
        config = self.settings.home / "config.toml"
        changed_ns = config.stat().st_mtime_ns if config.exists() else None
        if changed_ns == self._config_changed_ns:
            return
        self._config_changed_ns = changed_ns
        try:
            self.settings = load_settings(self.settings.home)
        except UserError as error:
            notify_log("alarm", "config.toml", f"kept as it was before: {error}")

    def _handlers(self) -> Mapping[str, Handler]:
        handlers: dict[str, Handler] = {
            "ping": lambda _: {"pid": os.getpid(), "version": costguard.__version__},
            "submit": self.commands.submit,
            "quote": self.commands.quote,
            "pause": self.commands.pause,
            "release": self.commands.release,
            "resume": self.commands.resume,
            "pull": self.commands.pull,
            "visit": self.commands.visit,
            "visit_touch": self.commands.visit_touch,
            "visit_end": self.commands.visit_end,
            "budget_set": self.commands.budget_set,
            "confirm_stopped": self.commands.confirm_stopped,
            "drill_plan": lambda args: drill_plan(self.context, args),
            "drilled": lambda args: drilled(self.context, args),
            "stop": self._stop_command,
        }
        for do in ANSWERS:
            handlers[do] = self._reader(do)
        return handlers

    def _reader(self, do: str) -> Handler:
        def read(args: Mapping[str, Any]) -> dict[str, Any]:
            now_ms = self.context.clock.now().utc_ms
            with self.store.read() as session:
                zone, caps = self.context.zone, self._caps()
                return read_answer(session, do, args, now_ms, zone, caps, os.getpid())

        return read

    def _stop_command(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Pause everything and wait for the proof, or leave all as it is; then end."""
        if args.get("mode") == "pause":
            self.commands.pause({"all": True})
            while self._unfinished() and not self._ended.is_set():
                time.sleep(STOP_POLL_S)
        threading.Timer(0.1, self.stop).start()  # after the answer has gone out
        return {"unfinished": self._unfinished()}

    def _unfinished(self) -> int:
        with self.store.read() as session:
            query = select(Job.id).where(Job.state.not_in(FINAL_STATES))
            return len(session.scalars(query).all())


def notify_log(level: str, job: str, text: str) -> None:
    """Loud words into the daemon's log, which does not need the database."""
    log.log(LEVELS[level], "%s: %s", job, text)


def main() -> int:
    """Run the daemon of this home until SIGTERM or a stop command; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("paramiko").setLevel(logging.WARNING)
    try:
        home = paths.ensure_home()
        with _only_daemon(home):
            daemon = Daemon(home, load_settings(home))
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: daemon.stop())
            _end_with_parent(daemon.stop)
            daemon.run()
    except UserError as error:
        log.error("%s", error)  # noqa: TRY400  (the sentence is what helps, not the stack)
        return error.exit_code
    return 0


def _end_with_parent(stop: Callable[[], None]) -> None:
    """Where a parent asked for it (the demo does), end when it dies, however it dies.

    COSTGUARD_PARENT_FD names a pipe's read end whose write end only the parent holds.
    """
    descriptor = os.environ.pop("COSTGUARD_PARENT_FD", None)
    if descriptor is None:
        return

    def watch() -> None:
        os.read(int(descriptor), 1)  # returns only at the end of file
        stop()

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextlib.contextmanager
def _only_daemon(home: Path) -> Any:
    """Hold the home's lock: one daemon per home, and the lock dies with its process."""
    descriptor = os.open(paths.lock_path(), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "daemon_runs",
                "another daemon runs for this home",
                str(home),
                "use it, or end it with `costguard daemon stop`",
                EXIT_INTERNAL,
            ) from error
        paths.pid_path().write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
        paths.pid_path().unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _installation_id(store: Store) -> str:
    """This home's own id, made once: what tells our instances from another installation's."""
    with store.write() as session:
        row = session.get(Meta, "installation")
        if row is None:
            row = Meta(key="installation", value=uuid.uuid4().hex[:12])
            session.add(row)
        return row.value
