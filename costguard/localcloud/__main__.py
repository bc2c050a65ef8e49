"""`python -m costguard.localcloud --home DIR`: run the platform until it is told to end."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import sqlite3
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from costguard.localcloud.cloud import Cloud
from costguard.localcloud.faults import Faults
from costguard.localcloud.machine import Machines
from costguard.localcloud.options import Options, parse
from costguard.localcloud.power import Power
from costguard.localcloud.registry import Registry
from costguard.localcloud.server import Server
from costguard.localcloud.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EXIT_USAGE = 2
IDLE_CHECK_S = 0.1
SHUTDOWN_POLL_S = 0.05


class StartError(Exception):
    """The platform cannot run here; the text says why and what to do."""


class Platform:
    """Every part of one running platform, put together."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.ended = threading.Event()
        self._lock_fd = _lock_home(options.home)
        try:
            self.store = Store(options.home / "localcloud.db")
            self.machines = Machines(options.home)
            self._tokens = [_kept_secret(self.store, name) for name in ("token", "admin_token")]
            self.registry = Registry(options, self.store, Faults())
        except (OSError, sqlite3.Error) as error:
            raise StartError(_unwritable(options.home, error)) from error
        self.power = Power(self.registry, self.machines)
        self.cloud = Cloud(self.registry, self.power, self.machines)
        self.server = self._bind()
        self.machines.platform_url = self.server.url

    @property
    def _endpoint_file(self) -> Path:
        return self.options.home / "endpoint.json"

    def run(self) -> None:
        """Serve until `ended` is set; then end every instance and close every meter."""
        self.power.recover()
        self.registry.reprice()
        threading.Thread(target=self.power.run_timers, name="timers", daemon=True).start()
        serving = threading.Thread(
            target=self.server.serve_forever, args=(SHUTDOWN_POLL_S,), name="http", daemon=True
        )
        serving.start()
        self._announce()
        check_s = None if self.options.exit_when_idle_s is None else IDLE_CHECK_S
        while not self.ended.wait(check_s) and not self._is_idle():
            pass
        self._endpoint_file.unlink(missing_ok=True)
        self.server.closing.set()
        self.server.shutdown()
        self.power.close()
        self.server.server_close()
        with self.registry.changed:
            self.store.close()

    def watch_parent(self, descriptor: int) -> None:
        """End the platform when the other end of this pipe is gone."""
        with suppress(OSError):
            while os.read(descriptor, 1):
                pass
        self.ended.set()

    def _is_idle(self) -> bool:
        limit_s = self.options.exit_when_idle_s
        quiet_s = time.monotonic() - self.server.last_request_at
        with self.registry.changed:
            return limit_s is not None and quiet_s >= limit_s and self.registry.is_idle()

    def _bind(self) -> Server:
        """The listener: on the port asked for, or the last one, or any."""
        wanted = self.options.port or int(self.store.get("port") or 0)
        try:
            server = self._listen(wanted)
        except OSError as error:
            if self.options.port:
                raise StartError(
                    f"port {wanted} on 127.0.0.1 cannot be used ({error.strerror}); "
                    "end what uses it, or give another with --port, or none"
                ) from error
            server = self._listen(0)
        self.store.put("port", str(server.server_port))
        return server

    def _listen(self, port: int) -> Server:
        token, admin_token = self._tokens
        return Server(port, self.cloud, self.registry.faults, token, admin_token)

    def _announce(self) -> None:
        """Write endpoint.json in one step, readable by its owner alone: the platform is ready."""
        endpoint = {
            "url": self.server.url,
            "pid": os.getpid(),
            "token": self._tokens[0],
            "admin_token": self._tokens[1],
        }
        part = self._endpoint_file.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        part.write_text(json.dumps(endpoint), encoding="utf-8")
        part.replace(self._endpoint_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the platform; 0 when it ended in order, 2 when it cannot run here."""
    options = parse(argv)
    os.umask(0o077)
    try:
        _check_parent(options.parent_fd)
        platform = Platform(options)
    except StartError as error:
        sys.stderr.write(f"localcloud: {error}\n")
        return EXIT_USAGE
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: platform.ended.set())
    if options.parent_fd is not None:
        threading.Thread(
            target=platform.watch_parent, args=(options.parent_fd,), daemon=True
        ).start()
    platform.run()
    return 0


def _check_parent(descriptor: int | None) -> None:
    """Keep the pipe from our own children; StartError if there is none."""
    if descriptor is None:
        return
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        raise StartError(
            f"--parent-fd {descriptor} is no open descriptor ({error.strerror}); "
            "hand the read end of a pipe down to this process"
        ) from error


def _lock_home(home: Path) -> int:
    """Hold the home for this process alone, for as long as it lives."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(_unwritable(home, error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StartError(
            f"a platform already runs on {home} (pid {owner}); use it, or give another --home"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _unwritable(home: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot write to {home} ({reason}); give a --home on a disk that can be written"


def _kept_secret(store: Store, name: str) -> str:
    """The token of this name, made once per home, so that clients survive a restart."""
    value = store.get(name)
    if value is None:
        value = secrets.token_urlsafe(32)
        store.put(name, value)
    return value


if __name__ == "__main__":
    sys.exit(main())
