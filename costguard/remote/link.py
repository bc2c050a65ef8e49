"""A supervised instance's line to the daemon: its own threads, so that a hung host delays nobody.

What the daemon sees is one inbox: the agent's messages as they are, with `received_boot_ms`,
and the link's own. Their order is the order in which they became known.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from costguard.remote.download import DownloadError, WantedFile, download, wanted_files
from costguard.remote.inbox import Inbox
from costguard.remote.prepare import Job, prepare, start_agent
from costguard.remote.ssh import (
    AuthRefusedError,
    RefusedError,
    RemoteFailedError,
    SshError,
    SshTarget,
    UnreachableError,
    connect,
    fingerprint,
    shown_host_key,
)
from costguard.remote.stream import Stream
from costguard.remote.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import paramiko

__all__ = ["Link", "LinkOptions", "LinkPlan", "SshTarget", "Upload"]


@dataclass(frozen=True)
class LinkPlan:
    """What one boot of one instance is to do, and where we stand with it.

    `job_dir`: absolute on the instance, or relative to the log-in directory. `pull_to`: where
    artifacts come home. `after_seq`: the last journal number that the daemon has stored.
    """

    target: SshTarget
    job_dir: str
    uploads: tuple[Upload, ...]
    spec: Mapping[str, Any]
    pull_to: Path
    after_seq: int
    pull_bytes_per_s: float | None = None  # a cap on what comes home


@dataclass(frozen=True)
class LinkOptions:
    """Times and counts; the defaults fit an instance on the far side of the country.

    `auth_tries`: a refused log-in is believed only after so many, because fresh instances
    open their port before they know our key. `remote_tries`: likewise for a command that
    fails there without saying why.
    """

    connect_timeout_s: float = 10.0
    silence_s: float = 10.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 15.0
    auth_tries: int = 5
    remote_tries: int = 3
    pull_tries: int = 5


class Link:
    """Connects, prepares, attaches, streams; and after any loss does so again.

    States in `{"t": "link", "state", "code", "detail", "at_ms"}`: `connecting`, `connected`,
    `preparing`, `attached`, `lost` (it tries again), `refused` (it does not; `code` says why).
    """

    def __init__(
        self, plan: LinkPlan, wake: Callable[[], None], options: LinkOptions | None = None
    ) -> None:
        self.plan = plan
        self._target = plan.target
        self._wake = wake
        self._options = options or LinkOptions()
        self._inbox = Inbox()
        self._closed = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._job = Job(plan.job_dir, plan.uploads, plan.spec)
        self._after_seq = plan.after_seq
        self._agent: tuple[str, ...] | None = None
        self._prepared = threading.Event()
        self._stream: Stream | None = None
        self._attached = False
        self._pulls: queue.SimpleQueue[tuple[str, Sequence[Mapping[str, Any]]] | None]
        self._pulls = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name="link", daemon=True),
            threading.Thread(target=self._run_pulls, name="link-pull", daemon=True),
        ]

    def start(self) -> None:
        """Begins; returns at once."""
        for thread in self._threads:
            thread.start()

    def drain(self) -> list[dict[str, Any]]:
        """Everything that has come in since the last call, in order."""
        return self._inbox.drain()

    def send(self, message: Mapping[str, Any]) -> bool:
        """Sends a message down to the agent; False when not attached. Never blocks."""
        stream = self._stream
        return self._attached and stream is not None and stream.send(message)

    def pull(self, name: str, files: Sequence[Mapping[str, Any]]) -> None:
        """Queues an artifact, `output_dir/name`, for its way to `pull_to/name`.

        Over a connection of its own; ends in `{"t": "pulled", "name", "ok", "code", "detail",
        "bytes", "seconds"}`.
        """
        self._pulls.put((name, files))

    def close(self) -> None:
        """Ends both threads and every connection, without waiting for them."""
        self._closed.set()
        self._prepared.set()
        self._pulls.put(None)
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def join(self, timeout_s: float) -> bool:
        """Whether both threads have ended within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        failures = 0
        refusals: dict[type[SshError], int] = {}
        while not self._closed.is_set():
            self._attached = False
            try:
                self._session()
            except (RefusedError, RemoteFailedError) as error:
                refusals[type(error)] = refusals.get(type(error), 0) + 1
                if refusals[type(error)] >= self._tries(error):
                    self._tell_state("refused", getattr(error, "code", "remote_failed"), error)
                    return
                self._tell_state("lost", getattr(error, "code", "remote_failed"), error)
            except UnreachableError as error:
                if self._attached:
                    failures = 0
                    refusals.clear()
                self._tell_state("lost", "unreachable", error)
            except Exception as error:  # noqa: BLE001  our fault: told, and the line goes on
                self._tell_state("lost", "internal", error)
            self._attached = False
            self._closed.wait(self._backoff_s(failures))
            failures += 1

    def _tries(self, error: SshError) -> int:
        if isinstance(error, AuthRefusedError):
            return self._options.auth_tries
        return self._options.remote_tries if isinstance(error, RemoteFailedError) else 1

    def _backoff_s(self, failures: int) -> float:
        grown = self._options.backoff_first_s * 2.0 ** min(failures, 16)
        return min(grown, self._options.backoff_max_s)

    def _session(self) -> None:
        """One connection from its start to its loss; always raises."""
        self._tell_state("connecting")
        with self._connection() as client:
            self._tell_state("connected")
            if self._agent is None:
                self._tell_state("preparing")
                self._agent = prepare(client, self._job, self._put)
                self._prepared.set()
            try:
                start_agent(client, self._agent, self._job.shell_directory)
            except RemoteFailedError:
                self._agent = None  # what was prepared is gone: begin anew
                raise
            self._attach(client, self._agent)

    def _attach(self, client: paramiko.SSHClient, agent: Sequence[str]) -> None:
        self._stream = Stream(client, agent, self._job.shell_directory, self._after_seq)
        try:
            for message in self._stream.messages(self._options.silence_s):
                if self._closed.is_set():
                    raise UnreachableError("closed")
                if message is not None:
                    self._take(message)
        finally:
            self._stream.close()
            self._stream = None

    def _take(self, message: dict[str, Any]) -> None:
        if message["t"] == "replaced":
            raise RefusedError("another daemon has attached to this agent", "replaced")
        if isinstance(message.get("error"), dict):
            raise UnreachableError(f"attach: {message['error'].get('what')}")
        if not self._attached:
            self._attached = True
            self._tell_state("attached")
        seq = message.get("seq")
        if isinstance(seq, int):
            if seq <= self._after_seq:
                return
            self._after_seq = seq
        self._put({**message, "received_boot_ms": boot_ms()})

    @contextlib.contextmanager
    def _connection(self) -> Iterator[paramiko.SSHClient]:
        mine: list[socket.socket] = []

        def opened(sock: socket.socket) -> None:
            mine.append(sock)
            with self._lock:
                self._sockets.add(sock)
            if self._closed.is_set():
                raise UnreachableError("closed")

        try:
            with contextlib.closing(
                connect(self._target, timeout_s=self._options.connect_timeout_s, opened=opened)
            ) as client:
                self._pin(client)
                yield client
        finally:
            with self._lock:
                self._sockets.difference_update(mine)
            for sock in mine:
                sock.close()

    def _pin(self, client: paramiko.SSHClient) -> None:
        """Of a first use: this key from here on, and no other."""
        if self._target.host_keys:
            return
        line = shown_host_key(client)
        self._target = replace(self._target, host_keys=(line,), trusts_first=False)
        self._put({"t": "host_key", "line": line, "fingerprint": fingerprint(line)})

    def _run_pulls(self) -> None:
        while (order := self._pulls.get()) is not None and not self._closed.is_set():
            name, files = order
            began = time.monotonic()
            result: dict[str, Any] = {"ok": False, "bytes": 0, "code": "", "detail": ""}
            try:
                result = {**result, "ok": True, "bytes": self._pull(name, files)}
            except (DownloadError, RefusedError) as error:
                result = {**result, "code": error.code, "detail": str(error)}
            except SshError as error:
                result = {**result, "code": "unreachable", "detail": str(error)}
            except Exception as error:  # noqa: BLE001  told, so that nobody waits for it
                result = {**result, "code": "internal", "detail": repr(error)}
            seconds = round(time.monotonic() - began, 3)
            self._put({"t": "pulled", "name": name, **result, "seconds": seconds})

    def _pull(self, name: str, files: Sequence[Mapping[str, Any]]) -> int:
        """Downloads one artifact; a broken connection is resumed, `pull_tries` times in all."""
        wanted = wanted_files(files)
        if not name or name in (".", "..") or "/" in name or name.startswith("."):
            raise DownloadError("bad_name", f"{name!r} is no artifact's name")
        self._prepared.wait()
        output_dir = self.plan.spec.get("output_dir", "output")
        remote_dir = f"{self._job.shell_directory}/{output_dir}/{name}"
        target = self.plan.pull_to / name
        for attempt in range(self._options.pull_tries - 1):
            with contextlib.suppress(UnreachableError):
                return self._download(remote_dir, wanted, target)
            self._closed.wait(self._backoff_s(attempt))
        return self._download(remote_dir, wanted, target)

    def _download(self, remote_dir: str, wanted: Sequence[WantedFile], target: Path) -> int:
        agent = self._agent
        if agent is None:
            raise UnreachableError("the instance is not prepared")
        with self._connection() as client:
            limit = self.plan.pull_bytes_per_s
            return download(client, agent, remote_dir, wanted, target, limit)

    def _tell_state(self, state: str, code: str = "", error: Exception | None = None) -> None:
        detail = "" if error is None else str(error) or repr(error)
        at_ms = time.time_ns() // 1_000_000
        self._put({"t": "link", "state": state, "code": code, "detail": detail, "at_ms": at_ms})

    def _put(self, message: dict[str, Any]) -> None:
        if not self._closed.is_set():
            self._inbox.put(message)
            self._wake()


def boot_ms() -> int:
    """Milliseconds since this host booted, suspended time included where it can be had."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic_ns() // 1_000_000
    return time.clock_gettime_ns(boottime) // 1_000_000
