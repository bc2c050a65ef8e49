"""Switching instances on and off for real: one process per running instance."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.localcloud import guest, processes

if TYPE_CHECKING:
    from costguard.localcloud.state import Instance

BOOT_TIMEOUT_S = 15.0
KILL_ROUND_S = 5.0
MS_PER_S = 1_000
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class MachineError(Exception):
    """An instance could not be switched on; the text says why."""


class Machines:
    """The machines below one home. Every method may be called from any thread."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._is_closed = False
        self.platform_url = ""
        for folder in (self._disks, self._configs):
            folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def _disks(self) -> Path:
        return self._home / "instances"

    @property
    def _configs(self) -> Path:
        return self._home / "machines"

    def work_dir(self, instance_id: str) -> Path:
        """The real path of the instance's work folder, on its disk."""
        return self._disks.resolve() / instance_id / "work"

    def make_disk(self, instance: Instance) -> None:
        """Lay out an empty disk. OSError if it cannot be."""
        guest.furnish(instance)

    def delete_disk(self, instance_id: str) -> None:
        """Delete the disk and what belongs to it; links are removed, never followed."""
        disk = self._disks / instance_id
        for folder, _, _ in os.walk(disk):  # what the guest has locked can be deleted all the same
            os.chmod(folder, 0o700)  # noqa: PTH101
        shutil.rmtree(disk, ignore_errors=True)
        for suffix in ("json", "log", "off"):
            (self._configs / f"{instance_id}.{suffix}").unlink(missing_ok=True)

    def start(self, instance: Instance) -> tuple[int, subprocess.Popen[bytes]]:
        """Switch on; its SSH port, and its process. MachineError if it does not come up."""
        try:
            guest.furnish(instance)
            config = self._write_config(instance)
            process = self._spawn(instance.id, config)
        except OSError as error:
            raise MachineError(f"cannot start {instance.id}: {error}") from error
        port = _read_port(process)
        if port is None:
            log = (self._configs / f"{instance.id}.log").read_text(errors="replace")[-500:]
            raise MachineError(f"{instance.id} did not come up: {log.strip() or 'no message'}")
        return port, process

    def kill(self, instance_id: str) -> None:
        """Switch off: returns when nothing that the instance ran is left."""
        with self._lock:
            process = self._running.pop(instance_id, None)
        root_pid = None if process is None else process.pid
        while processes.kill_instance(instance_id, root_pid, timeout_s=KILL_ROUND_S):
            sys.stderr.write(f"localcloud: {instance_id} still has processes, trying again\n")
        if process is not None:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def is_current(self, instance_id: str, process: subprocess.Popen[bytes]) -> bool:
        """Whether this is the process that the instance now runs in."""
        with self._lock:
            return self._running.get(instance_id) is process

    def close(self) -> None:
        """Start nothing from now on."""
        with self._lock:
            self._is_closed = True

    def power_cut_at_ms(self, instance_id: str) -> int | None:
        """When the instance ended itself because the platform had died; None if it did not say."""
        try:
            return int((self._configs / f"{instance_id}.off").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def running_processes(self, instance_id: str) -> list[dict[str, object]]:
        """Every living process of the instance, for the truth report."""
        pids = sorted(processes.of_instance(instance_id))
        return [{"pid": pid, "command": processes.command_of(pid)} for pid in pids]

    def _write_config(self, instance: Instance) -> Path:
        off_file = self._configs / f"{instance.id}.off"
        off_file.unlink(missing_ok=True)
        config = {
            "instance": instance.id,
            "disk": str(instance.disk),
            "host_private_key": instance.host_private_key,
            "ssh_public_key": instance.ssh_public_key,
            "environment": guest.environment(instance, self.platform_url),
            "off_file": str(off_file),
        }
        path = self._configs / f"{instance.id}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    def _spawn(self, instance_id: str, config: Path) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(PACKAGE_ROOT),  # for this process alone: its guests get their own
            processes.MARKER: instance_id,
        }
        with (
            (self._configs / f"{instance_id}.log").open("wb") as log,
            self._lock,
        ):
            if self._is_closed:
                raise OSError("the platform is shutting down")
            process = subprocess.Popen(
                [sys.executable, "-m", "costguard.localcloud.sshd", str(config)],
                cwd="/",  # nothing in a working folder can stand in for a module
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            self._running[instance_id] = process
        return process


def _read_port(process: subprocess.Popen[bytes]) -> int | None:
    """The port that the instance's process prints when it is ready; None if it does not."""
    stdout = process.stdout
    if stdout is None:
        return None
    poller = select.poll()
    poller.register(stdout, select.POLLIN)
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    text = b""
    while b"\n" not in text:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poller.poll(left_s * MS_PER_S):
            return None
        data = os.read(stdout.fileno(), 4_096)
        if not data:
            return None
        text += data
    return int(json.loads(text)["port"])
