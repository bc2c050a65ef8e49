"""A real agent in a real process, and a reader on its socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent import procfs
from costguard.agent.alone import Alone
from costguard.agent.artifacts import ArtifactWatcher
from costguard.agent.journal import Journal
from costguard.agent.leases import Leases
from costguard.agent.progress import ProgressWatcher
from costguard.agent.spec import parse_spec
from costguard.agent.supervisor import Supervisor, Watchers
from costguard.agent.tail import LogTail
from costguard.agent.training import Training
from costguard.remote.bundle import build_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TOY = Path(__file__).with_name("toy_trainer.py")
TIMEOUT_S = 20.0


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.utc_jump_ms = 0

    def boot_ms(self) -> int:
        """Where the clock stands."""
        return self.now_ms

    def utc_ms(self) -> int:
        """The same, a long time after 1970."""
        return 1_700_000_000_000 + self.now_ms + self.utc_jump_ms

    def advance(self, seconds: float) -> None:
        """Moves on."""
        self.now_ms += round(seconds * 1000)


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Returns once `true()`; fails the test, naming `what`, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return procfs.alive(procfs.find_process(pid))


def is_guardian(pid: int) -> bool:
    """Whether this is still the guardian that it was: a number may belong to another by now."""
    with contextlib.suppress(OSError):
        return b"agent.pyz" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def touch(path: Path) -> list[str]:
    """A power-off that powers nothing off: it adds one line to a file."""
    return [sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write('off\\n')", str(path)]


class Reader:
    """One attachment: collects what the agent sends, from a thread."""

    def __init__(self, directory: Path, after: int = 0) -> None:
        self.messages: list[dict[str, Any]] = []
        self.received_ns: list[int] = []
        self.closed = False
        self._sock = socket.socket(socket.AF_UNIX)
        with inside(directory):
            self._sock.connect("agent.sock")
        self._sock.sendall(json.dumps({"t": "attach", "after": after}).encode() + b"\n")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one message down."""
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def send_raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._sock.sendall(data)

    def close(self) -> None:
        """Lets go of the agent, as a cut connection would."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._sock.close()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of one kind so far."""
        return [message for message in list(self.messages) if message["t"] == kind]

    def wait_for(self, kind: str, timeout_s: float = TIMEOUT_S, **like: Any) -> dict[str, Any]:
        """The first message of `kind` whose fields are as in `like`."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [
                one for one in self.of(kind) if all(one.get(key) == like[key] for key in like)
            ]
            return bool(found)

        wait_until(look, f"{kind} {like}", timeout_s)
        return found[0]

    def lease(self, valid_ms: int = 60_000, lease_id: str = "L1") -> None:
        """Answers the newest heartbeat with a lease."""
        self.wait_for("heartbeat")
        number = self.of("heartbeat")[-1]["n"]
        self.send({"t": "lease", "id": lease_id, "heartbeat": number, "valid_ms": valid_ms})

    def journal(self) -> list[dict[str, Any]]:
        """The numbered messages so far."""
        return [message for message in list(self.messages) if "seq" in message]

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._sock.makefile("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self.received_ns.append(time.time_ns())
                    self.messages.append(json.loads(line))
        self.closed = True


@contextlib.contextmanager
def inside(directory: Path) -> Iterator[None]:
    """The current directory moved for a moment: a socket's path may not be long."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


class Job:
    """A job's directory with an order for the toy trainer, and the agent that serves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pids: set[int] = set()
        self.guardians: set[int] = set()
        self.readers: list[Reader] = []
        directory.mkdir(parents=True, exist_ok=True)
        self.agent_path = directory / "agent.pyz"
        self.agent_path.write_bytes(build_agent())
        (directory / "toy.py").write_bytes(TOY.read_bytes())

    def order(self, toy: Mapping[str, Any] | None = None, **spec: Any) -> None:
        """Writes spec.json: fast telemetry, and the toy told `toy`."""
        (self.directory / "spec.json").write_text(
            json.dumps(
                {
                    "run_id": "run-1",
                    "argv": [sys.executable, "toy.py", json.dumps(toy or {})],
                    "telemetry": {"sample_s": 0.1, "window_s": 0.3, "heartbeat_s": 0.1},
                    **spec,
                }
            )
        )

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs one subcommand of agent.pyz to its end."""
        return subprocess.run(
            [sys.executable, str(self.agent_path), *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            **options,
        )

    def start(self, **options: Any) -> dict[str, Any]:
        """`agent.pyz start`; its answer."""
        done = self.command("start", f"--dir={self.directory}", **options)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        if "pid" in answer:
            self.pids.add(answer["pid"])
        if "guardian" in answer:
            self.guardians.add(answer["guardian"])
        return answer

    def attach(self, after: int = 0) -> Reader:
        """A reader on the agent's socket."""
        reader = Reader(self.directory, after)
        self.readers.append(reader)
        return reader

    def begin(self, toy: Mapping[str, Any] | None = None, **spec: Any) -> Reader:
        """Order, start, attach, and a lease of a minute."""
        self.order(toy, **spec)
        assert self.start()["already"] is False
        reader = self.attach()
        reader.lease()
        return reader

    def agent_log(self) -> str:
        """What the agent has written about itself: empty unless something went wrong."""
        return (self.directory / "agent.log").read_text()

    def end(self) -> None:
        """Ends the agent and its training, and shows that nothing is left."""
        for guardian in filter(is_guardian, self.guardians):
            os.kill(guardian, signal.SIGKILL)
        for reader in self.readers:
            for started in reader.of("started"):
                self.pids.add(started["pid"])
            reader.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids:
                if lives(pid):
                    os.kill(pid, number)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not any(map(lives, self.pids)), "the agent's end", 3.0)
        assert not [pid for pid in self.pids if lives(pid)]


class Desk:
    """A supervisor in this process, with a real toy training, on a clock that the test moves."""

    def __init__(self, directory: Path, toy: Mapping[str, Any], **spec: Any) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.pids: set[int] = set()
        self.clock = FakeClock()
        self.gauges: dict[str, Any] = {}
        output = directory / "output"
        log = directory / "train.log"
        order = {"run_id": "run-1", "argv": [sys.executable, str(TOY), json.dumps(toy)], **spec}
        parsed = parse_spec(order)
        self.journal = Journal(directory / "journal.jsonl", self.clock, lambda: None)
        self.training = Training(self.clock, lambda: None, None)
        self.watchers = Watchers(
            progress=ProgressWatcher(output, 0, None),
            artifacts=ArtifactWatcher(output, {}, lambda: None),
            log=LogTail(log, 0),
            log_path=log,
        )

        def launch() -> dict[str, Any]:
            env = dict(os.environ)
            self.training.start(parsed.argv, cwd=directory, env=env, log=log, umask=0o022)
            self.pids.add(self.training.pid or 0)
            return {"pid": self.training.pid, "started": self.training.started}

        self.supervisor = Supervisor(
            spec=parsed,
            clock=self.clock,
            journal=self.journal,
            training=self.training,
            watchers=self.watchers,
            leases=Leases(),
            alone=Alone(parsed.guards, self.clock.boot_ms(), parsed.expects_adapter),
            launch=launch,
            gauges=lambda: self.gauges,
        )

    def lease(self, valid_s: float, **also: Any) -> None:
        """Answers a heartbeat that is sent now with a lease."""
        heartbeat = self.supervisor.heartbeat(at_once=True)
        assert heartbeat is not None
        lease = {"t": "lease", "id": "L1", "heartbeat": heartbeat["n"], **also}
        self.supervisor.receive({**lease, "valid_ms": round(valid_s * 1000)})

    def step(self) -> None:
        """One step of the supervisor, with what it journalled written."""
        self.supervisor.step()
        assert self.journal.flush(wait_s=5)

    def until(self, true: Callable[[], bool]) -> None:
        """Steps, with the clock standing still, until `true()`."""

        def look() -> bool:
            self.supervisor._poll_due_ms = 0  # looks at the files although no time has passed
            self.step()
            return true()

        wait_until(look, "the supervisor")

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind so far."""
        lines = (self.directory / "journal.jsonl").read_bytes().splitlines()
        return [record for record in map(json.loads, lines) if record["t"] == kind]

    def guest_stops(self) -> list[subprocess.Popen[bytes]]:
        """The power-offs that have not been seen to return."""
        guest_stop = self.supervisor._guest_stop
        return [] if guest_stop is None else [process for _, process in guest_stop._processes]

    def end(self) -> None:
        """Kills what is left of the training, and shows that nothing remains."""
        self.training.kill()
        for pid in self.pids:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)
        for process in self.guest_stops():
            process.wait(5)
        wait_until(lambda: self.training.collect() is not None or not self.training.running, "end")
        wait_until(lambda: not any(map(lives, self.pids)), "the end of everything")
        self.journal.close()
