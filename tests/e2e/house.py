"""A home with a real daemon on it, and what a test asks of it; several may stand side by side."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from costguard.core.money import parse_yuan
from costguard.jobfile import load_job
from costguard.store.database import read_only_session
from tests.bench.toy import SCRIPT
from tests.store.invariants import check_books

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
FINAL = ("paused", "finished", "failed", "released")
DEADLINE_S = 90.0
CONFIG = "[providers.local]\npoll_interval_s = 1\nstop_latency_s = 3\n"


class House:
    """One COSTGUARD_HOME; the daemon starts the rental platform by itself, as for a newcomer."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.daemon: subprocess.Popen[bytes] | None = None
        (home / "config.toml").write_text(CONFIG, encoding="utf-8")

    def start_daemon(self) -> int:
        """Start it and wait until it answers; its pid."""
        with (self.home / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "costguard", "daemon", "run"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "COSTGUARD_HOME": str(self.home)},
                start_new_session=True,
            )
        self.wait(lambda: (self.home / "daemon.sock").exists() and self.answers())
        return self.daemon.pid

    def answers(self) -> bool:
        """Whether the daemon answers; AssertionError with its log if it has ended."""
        assert self.daemon is not None
        assert self.daemon.poll() is None, (self.home / "daemon.log").read_text()
        try:
            return bool(self.ask("ping"))
        except OSError:
            return False

    def ask(self, do: str, **args: Any) -> Any:
        """What the daemon answers on its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(self.home / "daemon.sock"))
            connection.sendall(json.dumps({"do": do, "args": args}).encode() + b"\n")
            answer = json.loads(connection.makefile().readline())
        assert answer["ok"], answer
        return answer["result"]

    def submit(
        self,
        command: list[str],
        *,
        lease: str = "60s",
        guards: str = "",
        instance: str = "",
        save_grace: str = "2s",
        script: str = SCRIPT,
    ) -> None:
        """Submit the job `job` that runs this command, with the toy training beside it."""
        (self.home / "toy.py").write_text(script, encoding="utf-8")
        path = self.home / "job.toml"
        path.write_text(
            f"""[job]
name = "job"
budget_yuan = 2
[instance]
provider = "local"
{instance}
[training]
engine = "command"
command = {json.dumps(command)}
upload = ["toy.py"]
[guards]
{guards}
[artifacts]
pull_to = "artifacts"
[advanced]
lease = "{lease}"
save_grace = "{save_grace}"
""",
            encoding="utf-8",
        )
        self.ask("submit", spec=load_job(path).to_json(), key="job")

    def row(self) -> dict[str, Any]:
        """The job's row of `status`."""
        row: dict[str, Any] = self.ask("status", job="job")["jobs"][0]
        return row

    def kinds(self) -> list[str]:
        """The kinds of the job's events, in order."""
        return [event["kind"] for event in self.ask("events", job="job")["events"]]

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What the condition returns once it is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not (result := condition()):
            assert time.monotonic() < deadline, "it did not come in time"
            time.sleep(0.05)
        return result

    def wait_final(self) -> dict[str, Any]:
        """The job's row once it has ended."""
        self.wait(lambda: self.row()["state"] in FINAL)
        return self.row()

    def start_training(self) -> None:
        """Wait until some steps are done."""
        self.wait(lambda: (self.row()["step"] or 0) >= 5)

    def truth(self) -> dict[str, Any]:
        """What the platform really knows."""
        endpoint = json.loads((self.home / "localcloud" / "endpoint.json").read_text())
        return self._get(endpoint, "/admin/truth", "admin_token")

    def bill_micros(self) -> int:
        """The platform's bill, every instance together."""
        endpoint = json.loads((self.home / "localcloud" / "endpoint.json").read_text())
        return parse_yuan(self._get(endpoint, "/v1/bill", "token")["total_yuan"])

    @staticmethod
    def _get(endpoint: dict[str, str], path: str, token: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {endpoint[token]}"}
        answer = requests.get(endpoint["url"] + path, headers=headers, timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def assert_books(self, quantum_micros: int) -> None:
        """Ledger and bill within one quantum; every invariant of the books holds."""
        bill = self.bill_micros()
        books = parse_yuan(self.ask("report")["totals"]["estimated_yuan"])
        assert bill <= books <= bill + quantum_micros, (books, bill)
        with read_only_session(self.home / "costguard.db") as session:
            check_books(session)

    def processes(self) -> list[str]:
        """Command lines of everything that works in this home or for an instance of it."""
        asked = subprocess.run(
            ["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True
        )
        found = [line for line in asked.stdout.splitlines() if str(self.home) in line]
        if self.daemon is not None and self.daemon.poll() is None:
            found.append(f"daemon {self.daemon.pid}")
        return found

    def end(self) -> None:
        """End the daemon and the platform, however the test ended."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        endpoint = self.home / "localcloud" / "endpoint.json"
        if endpoint.exists():
            pid = json.loads(endpoint.read_text())["pid"]
            if any(line.split()[0] == str(pid) for line in self.processes()):
                os.kill(pid, signal.SIGTERM)
                self.wait(lambda: not self.processes())


@contextmanager
def house() -> Iterator[House]:
    """A new home in a short place, as its socket's name must be short; ended and removed."""
    home = Path(tempfile.mkdtemp(prefix="cg-house-"))
    made = House(home)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(home, ignore_errors=True)
