"""What these tests share: a cloud with machines that are not real, and a client of a real one."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import paramiko
import requests

from costguard.localcloud.cloud import Cloud
from costguard.localcloud.faults import Faults
from costguard.localcloud.hostkeys import generate
from costguard.localcloud.machine import MachineError, Machines
from costguard.localcloud.options import Options
from costguard.localcloud.power import Power
from costguard.localcloud.registry import Registry
from costguard.localcloud.store import Store

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from costguard.localcloud.launch import Running
    from costguard.localcloud.state import Instance

USER_KEY, USER_PUBLIC_KEY = generate()
DEADLINE_S = 15.0
JANUARY_MS = 1_767_225_600_000
# Start two that are hard to find, in a new session and forked twice: with the marker, and without.
MARKED = """
setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!
(setsid sh -c 'sleep 600 3>&- & echo $! >&3' 3>&1 >/dev/null 2>&1 </dev/null &)
"""
CLEARED = """
setsid env -i sleep 600 >/dev/null 2>&1 </dev/null & echo $!
(setsid env -i sh -c 'sleep 600 3>&- & echo $! >&3' 3>&1 >/dev/null 2>&1 </dev/null &)
"""


def poll(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """What the condition returns once it is true; AssertionError after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come in time"
        time.sleep(0.005)
    return result


def order(**changes: Any) -> dict[str, Any]:
    """A create request that is right, with these changes."""
    body = {"name": "job", "tag": "t", "gpu": "RTX 3090", "ssh_public_key": USER_PUBLIC_KEY}
    return {**body, **changes}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = JANUARY_MS

    def __call__(self) -> int:
        """Now, in UTC ms."""
        return self.ms


class FakeProcess:
    """Stands for an instance's process: ends when it is told to."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def wait(self) -> int:
        """Block until it has ended."""
        self.ended.wait()
        return 0


class FakeMachines:
    """Stands for `Machines`: processes that are not there, on ports that count up."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: dict[str, FakeProcess] = {}
        self.ports = 1_000
        self.broken: str | None = None
        self.power_cuts: dict[str, int] = {}

    def work_dir(self, instance_id: str) -> Path:
        """Where the disk would be."""
        return self.home / instance_id / "work"

    def make_disk(self, instance: Instance) -> None:
        """Make the disk's work folder."""
        Path(instance.work_dir).mkdir(parents=True)

    def delete_disk(self, instance_id: str) -> None:
        """Forget about the disk."""

    def start(self, instance: Instance) -> tuple[int, subprocess.Popen[bytes]]:
        """Come up at once, unless told to be broken."""
        if self.broken is not None:
            raise MachineError(self.broken)
        self.ports += 1
        self.running[instance.id] = FakeProcess()
        return self.ports, cast("subprocess.Popen[bytes]", self.running[instance.id])

    def kill(self, instance_id: str) -> None:
        """End at once."""
        process = self.running.pop(instance_id, None)
        if process is not None:
            process.ended.set()

    def is_current(self, instance_id: str, process: object) -> bool:
        """Whether the process is the one that was started last."""
        return self.running.get(instance_id) is process

    def close(self) -> None:
        """Nothing to refuse: the tests start nothing afterwards."""

    def power_cut_at_ms(self, instance_id: str) -> int | None:
        """What the test says."""
        return self.power_cuts.get(instance_id)

    def running_processes(self, instance_id: str) -> list[dict[str, object]]:
        """One entry while it runs."""
        return [{"pid": 0, "command": "fake"}] if instance_id in self.running else []


class CloudWorld:
    """A cloud in this process, with its timers running on a clock that the test moves."""

    def __init__(self, home: Path, clock: Clock, **options: Any) -> None:
        self.clock = clock
        self.options = Options(home=home, **{"start_s": 0.0, "stop_s": 0.0, **options})
        self.store = Store(home / "localcloud.db")
        self.faults = Faults()
        self.machines = FakeMachines(home / "disks")
        self.registry = Registry(self.options, self.store, self.faults, clock)
        machines = cast("Machines", self.machines)
        self.power = Power(self.registry, machines)
        self.cloud = Cloud(self.registry, self.power, machines)
        self._timers = threading.Thread(target=self.power.run_timers, daemon=True)

    @contextmanager
    def open(self) -> Iterator[CloudWorld]:
        """Timers run inside; afterwards everything is closed."""
        self._timers.start()
        try:
            yield self
        finally:
            self.power.close()
            self._timers.join()
            self.store.close()

    def move(self, ms: int) -> None:
        """Let time pass; when this returns, every timer that is due by then has fired."""
        with self.registry.changed:
            self.clock.ms += ms
            for instance in self.registry.present():
                self.power._tick(instance, self.clock.ms)

    def create(self, **changes: Any) -> str:
        """Rent an instance; its id, as soon as it runs."""
        instance_id = str(self.cloud.create(order(**changes))["id"])
        self.wait(instance_id, "running")
        return instance_id

    def stop(self, instance_id: str, expected: str = "stopped") -> dict[str, Any]:
        """Stop it and wait until it is."""
        self.cloud.stop(instance_id)
        return self.wait(instance_id, expected)

    def wait(self, instance_id: str, status: str) -> dict[str, Any]:
        """The instance, as soon as it has this status and nothing works on it any more."""
        resting = status not in {"starting", "stopping"}

        def reached() -> dict[str, Any] | None:
            shown = self.cloud.get(instance_id)
            is_worked_on = instance_id in self.power._driven
            return shown if shown["status"] == status and not (resting and is_worked_on) else None

        return cast("dict[str, Any]", poll(reached, f"{instance_id} {status}"))

    def amounts(self, instance_id: str) -> list[tuple[int, str]]:
        """Quanta and yuan of each line of its bill."""
        lines = self.cloud.bill(instance_id)["lines"]
        return [(line["quanta"], line["amount_yuan"]) for line in lines]


class Client:
    """A user of a platform that runs as a process of its own."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._session = requests.Session()
        self._session.trust_env = False

    def close(self) -> None:
        """Close the HTTP connections."""
        self._session.close()

    def call(self, method: str, path: str, *, admin: bool = False, **options: Any) -> Any:
        """What the platform answers; AssertionError if it is an error."""
        token = self.running.admin_token if admin else self.running.token
        response = self._session.request(
            method,
            self.running.url + path,
            headers={"Authorization": f"Bearer {token}"},
            timeout=DEADLINE_S,
            **options,
        )
        assert response.ok, response.text
        return response.json()

    def truth(self) -> dict[str, Any]:
        """What the platform really knows."""
        return cast("dict[str, Any]", self.call("GET", "/admin/truth", admin=True))

    def create(self, **changes: Any) -> dict[str, Any]:
        """Rent an instance; the instance, as soon as it runs."""
        made = self.call("POST", "/v1/instances", json=order(**changes))
        return self.wait(made["id"], "running")

    def get(self, instance_id: str) -> dict[str, Any]:
        """The instance now."""
        return cast("dict[str, Any]", self.call("GET", f"/v1/instances/{instance_id}"))

    def wait(self, instance_id: str, status: str) -> dict[str, Any]:
        """The instance, as soon as it has this status."""

        def reached() -> dict[str, Any] | None:
            shown = self.get(instance_id)
            return shown if shown["status"] == status else None

        return cast("dict[str, Any]", poll(reached, f"{instance_id} {status}"))

    def stop(self, instance_id: str) -> dict[str, Any]:
        """Stop it and wait until it is stopped."""
        self.call("POST", f"/v1/instances/{instance_id}/stop")
        return self.wait(instance_id, "stopped")


def host_key_of(instance: dict[str, Any]) -> paramiko.PKey:
    """The host key that the platform tells."""
    return paramiko.Ed25519Key(data=base64.b64decode(instance["ssh"]["host_key"].split()[1]))


@contextmanager
def ssh(
    instance: dict[str, Any],
    *,
    user: str = "root",
    key: str = USER_KEY,
    host_key: paramiko.PKey | None = None,
) -> Iterator[paramiko.SSHClient]:
    """A connection with the host key pinned and every other one rejected."""
    port = instance["ssh"]["port"]
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    pinned = host_key or host_key_of(instance)
    client.get_host_keys().add(f"[127.0.0.1]:{port}", pinned.get_name(), pinned)
    try:
        client.connect(
            "127.0.0.1",
            port,
            user,
            pkey=paramiko.Ed25519Key(file_obj=io.StringIO(key)),
            allow_agent=False,
            look_for_keys=False,
            timeout=DEADLINE_S,
        )
        transport = client.get_transport()
        assert transport is not None
        # Without it every exec costs a delayed acknowledgement, 40 ms.
        assert isinstance(transport.sock, socket.socket)
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client
    finally:
        client.close()


def execute(
    client: paramiko.SSHClient, command: str, data: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Exit status, standard output and standard error of a command that is fed `data`."""
    stdin, stdout, stderr = client.exec_command(command, timeout=DEADLINE_S)
    stdin.write(data)
    stdin.channel.shutdown_write()
    output, errors = stdout.read(), stderr.read()
    return stdout.channel.recv_exit_status(), output, errors


def is_alive(pid: int) -> bool:
    """Whether a process with this id lives, zombies not counted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def hide(instance: dict[str, Any], *, cleared: bool = True) -> list[int]:
    """Start processes in the instance that are hard to find; their ids."""
    with ssh(instance) as client:
        _, output, _ = execute(client, MARKED + CLEARED if cleared else MARKED)
    pids = [int(line) for line in output.split()]
    assert len(pids) == (4 if cleared else 2)
    assert all(is_alive(pid) for pid in pids)
    return pids


def none_alive(pids: list[int]) -> bool:
    """Whether all of them are gone."""
    return not any(is_alive(pid) for pid in pids)
