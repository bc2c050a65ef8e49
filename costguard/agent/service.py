"""The agent's loop: socket, timers and threads around one supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import selectors
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent import VERSION, procfs
from costguard.agent.alone import Alone
from costguard.agent.artifacts import ArtifactWatcher, list_artifacts
from costguard.agent.clock import Clock, SystemClock, boot_id
from costguard.agent.daemonize import give_memory_back
from costguard.agent.gpu import MIB, GpuSampler
from costguard.agent.journal import Journal
from costguard.agent.leases import Leases
from costguard.agent.orderfiles import ENGINE, write_files
from costguard.agent.past import Past, read_past
from costguard.agent.patterns import LineProgress, compile_pattern
from costguard.agent.progress import PROGRESS_FILE, ProgressWatcher
from costguard.agent.server import Server
from costguard.agent.supervisor import Supervisor, Watchers
from costguard.agent.tail import LogTail
from costguard.agent.training import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from costguard.agent.launch import Launch
    from costguard.agent.spec import Spec

JOURNAL = "journal.jsonl"
TRAIN_LOG = "train.log"
NVML_WAIT_S = 2.0
FAULT_PAUSE_S = 0.2
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class WakeUp:
    """Lets other threads end the loop's wait."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        selector.register(self._read, selectors.EVENT_READ, self._drain)

    def __call__(self) -> None:
        """Ends the present or the next wait."""
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: one more changes nothing
            os.write(self._write, b"!")

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass


class Gauges:
    """The figures of one window: cards, and what the job's processes used."""

    def __init__(self, sampler: GpuSampler, training: Training, clock: Clock, log: Path) -> None:
        self._sampler = sampler
        self._training = training
        self._clock = clock
        self._log = log
        self._last_cpu_s = 0.0
        self._last_io: int | None = 0
        self._last_log = _size(log)
        self._last_ms = clock.boot_ms()

    def __call__(self) -> dict[str, Any]:
        """The fields of a `gpu` message; `io_kib` and `log_kib` are signs of life."""
        usage, now_ms = self._training.usage(), self._clock.boot_ms()
        elapsed_s = (now_ms - self._last_ms) / 1000
        used_s = max(0.0, usage.cpu_s - self._last_cpu_s)
        moved = None
        if usage.io_bytes is not None and self._last_io is not None:
            moved = max(0, usage.io_bytes - self._last_io)
        written = _size(self._log) - self._last_log
        self._last_cpu_s, self._last_ms, self._last_io = usage.cpu_s, now_ms, usage.io_bytes
        self._last_log += written
        job = {
            "processes": usage.processes,
            "cpu_cores": round(used_s / elapsed_s, 3) if elapsed_s > 0 else None,
            "rss_mib": usage.rss_bytes // MIB,
            "io_kib": None if moved is None else moved // 1024,
            "log_kib": -(-max(0, written) // 1024),
        }
        return {"window_s": round(elapsed_s, 3), **self._sampler.window(), "job": job}


class Service:
    """Everything of one agent process, in the current directory, which is the job's."""

    def __init__(self, spec: Spec, launch: Launch) -> None:
        self._spec = spec
        self._launch = launch
        self._clock = SystemClock()
        self._selector = selectors.DefaultSelector()
        self._wake = WakeUp(self._selector)
        self._journal = Journal(Path(JOURNAL), self._clock, self._wake)
        self._training = Training(self._clock, self._wake, os.getpid() if _reap() else None)
        self._sampler = GpuSampler(spec.sample_s, self._clock.boot_ms)
        self._terminated = False
        past = read_past(self._journal.records(), spec.run_id)
        own_seq = self._journal.append("hello", self._hello(past))
        self._supervisor = self._supervise(past)
        self._server = Server(
            self._selector,
            self._journal,
            past.first_seq or own_seq,
            own_seq,
            attached=self._attached,
            receive=self._supervisor.receive,
            ask=self._answer,
        )

    def run(self, ready: Callable[[], None]) -> None:
        """Serves until there is nothing left to do; calls `ready` once the socket listens."""
        give_memory_back()
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ready()
        while not self._supervisor.done:
            self._step_whatever_happens()
        self._journal.close()
        self._sampler.close()
        self._server.push()
        self._server.close()

    def _step_whatever_happens(self) -> None:
        """A dead agent stops nothing: a fault goes to the agent's log, and the next step comes."""
        try:
            self._step()
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            time.sleep(FAULT_PAUSE_S)

    def _step(self) -> None:
        for key, _ in self._selector.select(self._supervisor.wait_s()):
            key.data()
        if self._terminated:
            self._terminated = False
            self._supervisor.terminated()
        self._supervisor.step()
        if self._server.has_reader:
            self._send_heartbeat(at_once=False)
        self._server.push()

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        self._terminated = True
        self._wake()

    def _attached(self) -> None:
        self._supervisor.new_reader()
        self._send_heartbeat(at_once=True)

    def _send_heartbeat(self, *, at_once: bool) -> None:
        heartbeat = self._supervisor.heartbeat(at_once=at_once)
        if heartbeat is not None:
            self._server.send(heartbeat)

    def _answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answers `start` of a second agent, which asks for the state, or for the place."""
        retired = message.get("t") == "retire" and self._supervisor.retire()
        return {
            "t": "status",
            "pid": os.getpid(),
            "run_id": self._spec.run_id,
            "training": self._supervisor.state,
            "retired": retired,
        }

    def _hello(self, past: Past) -> dict[str, Any]:
        output = Path(self._spec.output_dir)
        resumed = past.first_seq is not None
        fields: dict[str, Any] = {
            "agent_version": VERSION,
            "run_id": self._spec.run_id,
            "pid": os.getpid(),
            "guardian": os.getppid(),
            "boot_id": boot_id(),
            "python": platform.python_version(),
            "cpu_count": os.cpu_count(),
            "nvml": self._sampler.start(NVML_WAIT_S),
            "in_guest_stop": self._spec.in_guest_stop is not None,
            "resumed": resumed,
        }
        if not resumed:
            past.present = {found.name: found.identity for found in list_artifacts(output)}
            past.progress_offset = _size(output / PROGRESS_FILE)
            past.log_offset = _size(Path(TRAIN_LOG))
            fields["present"] = past.present
            fields["progress_offset"] = past.progress_offset
            fields["log_offset"] = past.log_offset
        return fields

    def _supervise(self, past: Past) -> Supervisor:
        output = Path(self._spec.output_dir)
        artifacts = ArtifactWatcher(
            output, past.present, self._wake, publishes=self._spec.engine == ENGINE
        )
        pattern = self._spec.progress_pattern
        artifacts.adapter = past.adapter
        watchers = Watchers(
            progress=ProgressWatcher(output, past.progress_offset or 0, past.phase),
            artifacts=artifacts,
            log=LogTail(Path(TRAIN_LOG), past.log_offset or 0),
            log_path=Path(TRAIN_LOG),
            pattern=None if pattern is None else LineProgress(compile_pattern(pattern)),
        )
        started, exited = past.latest.get("started"), "exit" in past.latest
        rebooted = past.boot_id is not None and past.boot_id != boot_id()
        adopted = not rebooted and started is not None and not exited and self._adopt(started)
        lease = past.lease if adopted else None
        alone = Alone(self._spec.guards, self._clock.boot_ms(), self._spec.expects_adapter)
        alone.remember(self._journal.records(), self._spec.run_id if adopted else None)
        supervisor = Supervisor(
            spec=self._spec,
            clock=self._clock,
            journal=self._journal,
            training=self._training,
            watchers=watchers,
            leases=Leases() if lease is None else Leases.restored(lease),
            alone=alone,
            launch=self._start_training,
            gauges=Gauges(self._sampler, self._training, self._clock, Path(TRAIN_LOG)),
        )
        supervisor.resume(past.latest.get("stopping"), exited=exited)
        if past.lease is not None and not exited and not adopted:
            away = "the instance was rebooted" if rebooted else "no agent was there"
            supervisor.end_unseen(f"the training ended, or never began, while {away}")
        return supervisor

    def _adopt(self, started: Mapping[str, Any]) -> bool:
        return self._training.adopt(int(started["pid"]), str(started["started"]))

    def _start_training(self) -> dict[str, Any]:
        """Starts it; `resumes_from` is what an engine that has to be told goes on from."""
        newest = write_files(self._spec)
        resumes = {"resumes_from": newest} if self._spec.engine == ENGINE else {}
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **self._spec.env, **self._launch.env}
        self._training.start(
            self._launch.argv,
            cwd=Path(self._spec.cwd),
            env=env,
            log=Path(TRAIN_LOG),
            umask=self._launch.umask,
        )
        return {
            "pid": self._training.pid,
            "started": self._training.started,
            "argv": list(self._launch.argv),
            "python": self._launch.python,
            **resumes,
        }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _reap() -> bool:
    """Makes this process the reaper of what the training orphans; False where that is not offered.

    Thus nothing of the job gets away by forking twice: it is counted, and it is killed.
    """
    if sys.platform != "linux" or not (procfs.PROC / "self" / "stat").exists():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
