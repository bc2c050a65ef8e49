"""A daemon's end of the line, and what it has started on an instance."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.remote.link import Link, LinkOptions, LinkPlan, Upload
from tests.agent.harness import TOY, is_guardian, lives, wait_until

if TYPE_CHECKING:
    from costguard.remote.ssh import SshTarget
    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine

QUICK = LinkOptions(backoff_first_s=0.05, backoff_max_s=0.2, connect_timeout_s=5, auth_tries=2)
HOSTILE_DIRECTORY = '-rf it\'s $(touch pwned) "a"\njob'


class Daemon:
    """Stands where the daemon will: drains a link, and grants a lease to every heartbeat."""

    def __init__(self, plan: LinkPlan, options: LinkOptions = QUICK, *, grant: bool = True) -> None:
        self.plan = plan
        self.messages: list[dict[str, Any]] = []
        self.woken = threading.Event()
        self.link = Link(plan, self.woken.set, options)
        self._grant = grant
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self.link.start()
        self._thread.start()

    def _loop(self) -> None:
        while not self._ended.is_set():
            self.woken.wait(0.1)
            self.woken.clear()
            for message in self.link.drain():
                self.messages.append(message)
                if message["t"] == "heartbeat" and self._grant:
                    lease = {"t": "lease", "id": "L", "heartbeat": message["n"]}
                    self.link.send({**lease, "valid_ms": 60_000})

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of one kind so far."""
        return [message for message in list(self.messages) if message["t"] == kind]

    def states(self) -> list[str]:
        """The link's states so far."""
        return [message["state"] for message in self.of("link")]

    def lost(self, times: int) -> bool:
        """Whether the line has been lost so often."""
        return self.states().count("lost") == times

    def wait_for(self, kind: str, **like: Any) -> dict[str, Any]:
        """The first message of `kind` with these fields."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [
                one for one in self.of(kind) if all(one.get(key) == like[key] for key in like)
            ]
            return bool(found)

        wait_until(look, f"{kind} {like}; states: {self.of('link')}")
        return found[0]

    def journal(self) -> list[dict[str, Any]]:
        """The numbered messages."""
        return [message for message in list(self.messages) if "seq" in message]

    def end(self) -> None:
        """Closes the link; nothing of it remains."""
        self.link.close()
        self._ended.set()
        self._thread.join(5)
        assert self.link.join(10)


class World:
    """Daemons on one instance, and what they started there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.daemons: list[Daemon] = []
        self.directories: set[Path] = set()

    def plan(self, target: SshTarget, job_dir: str, toy: Any = None, **spec: Any) -> LinkPlan:
        """A job for the toy trainer."""
        self.directories.add(self.home / "instance" / "home" / job_dir)
        return LinkPlan(
            target=target,
            job_dir=job_dir,
            uploads=(Upload(TOY, "toy.py"),),
            spec={
                "run_id": "run-1",
                "argv": ["{python}", "toy.py", json.dumps(toy or {})],
                "env": {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                "needs": ["json"],
                "telemetry": {"sample_s": 0.1, "window_s": 0.3, "heartbeat_s": 0.1},
                **spec,
            },
            pull_to=self.home / "artifacts",
            after_seq=0,
        )

    def run(self, plan: LinkPlan, options: LinkOptions = QUICK, *, grant: bool = True) -> Daemon:
        """A daemon with this plan."""
        self.daemons.append(Daemon(plan, options, grant=grant))
        return self.daemons[-1]

    def end(self) -> None:
        """Ends the daemons, the agents and the trainings."""
        for daemon in self.daemons:
            daemon.end()
        pids: set[int] = set()
        for directory in self.directories:
            journal = directory / "journal.jsonl"
            if journal.exists():
                for record in map(json.loads, journal.read_bytes().splitlines()):
                    if record["t"] in {"hello", "started"}:
                        pids.add(record["pid"])
                    if is_guardian(record.get("guardian", 0)):
                        os.kill(record["guardian"], signal.SIGKILL)
        for pid in filter(lives, pids):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(lives, pids)), "the end of the agents")


def absolute(machine: Machine | OpenSsh, name: str = "job") -> str:
    """A directory on the instance."""
    return f"{machine.home}/{name}"
