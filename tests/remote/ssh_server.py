"""An SSH server on loopback in this process: commands, SFTP, and a line that can be cut.

It stands in for an instance's sshd: real SSH, real commands (through `sh -c`, as OpenSSH does),
real files below `home`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.sftp import SFTP_FAILURE, SFTP_OK

from costguard.remote.ssh import SshTarget, make_client_key

if TYPE_CHECKING:
    from collections.abc import Callable

COPY_BYTES = 64 * 1024


def new_host_key() -> paramiko.PKey:
    """A fresh ed25519 host key."""
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return paramiko.Ed25519Key.from_private_key(io.StringIO(private.decode()))


def public_line(key: paramiko.PKey) -> str:
    """As known_hosts has it, without the host."""
    return f"{key.get_name()} {key.get_base64()}"


class Machine:
    """An instance: an SSH server, a home, and what may be done to it."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.host_key = new_host_key()
        self.key_path = home.parent / "client_key"
        self.authorized = make_client_key(self.key_path)
        # The tests' Python before any wrapper of that name, which would start twice.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**os.environ, "HOME": str(home), "PATH": path}
        self.password: str | None = None  # the one that it takes, where it takes one
        self.connections = 0
        self.commands: list[str] = []
        self._transports: list[paramiko.Transport] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def target(self, **other: Any) -> SshTarget:
        """How to reach it."""
        usual: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "me",
            "host_keys": (public_line(self.host_key),),
            "client_key_path": self.key_path,
        }
        return SshTarget(**{**usual, **other})

    def cut(self) -> None:
        """Breaks every connection, as a network would."""
        for transport in self._transports:
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the server, its connections, and the commands that still run."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        self._thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                transport = paramiko.Transport(sock)
                transport.set_log_channel("costguard.remote.wire")
                transport.add_server_key(self.host_key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, self.home)
                self._transports.append(transport)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(event=threading.Event(), server=_Door(self))

    def execute(self, channel: paramiko.Channel, command: bytes) -> None:
        """Runs one command with its streams joined to the channel."""
        self.commands.append(command.decode())
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stdin = process.stdin
        typed = _in_thread(lambda: _copy_in(channel, stdin))
        errors = _in_thread(lambda: _copy_out(process.stderr, channel.sendall_stderr))
        _copy_out(process.stdout, channel.sendall)
        errors.join()
        status = process.wait()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.send_exit_status(status if status >= 0 else 255)
            channel.close()
        typed.join()  # closed, its channel says no more: the pipe is not left to be collected open


def _in_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def _copy_in(channel: paramiko.Channel, pipe: Any) -> None:
    with contextlib.suppress(OSError, EOFError), pipe:
        while data := channel.recv(COPY_BYTES):
            os.write(pipe.fileno(), data)


def _copy_out(pipe: Any, send: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException), pipe:
        while data := os.read(pipe.fileno(), COPY_BYTES):
            send(data)


class _Door(paramiko.ServerInterface):
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def get_allowed_auths(self, username: str) -> str:
        return "publickey" if self._machine.password is None else "password"

    def check_auth_password(self, username: str, password: str) -> int:
        return AUTH_SUCCESSFUL if password == self._machine.password else AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = self._machine.authorized.split()[1] == key.get_base64()
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        _in_thread(lambda: self._machine.execute(channel, command))
        return True


class _Files(paramiko.SFTPServerInterface):
    def __init__(self, server: paramiko.ServerInterface, home: Path) -> None:
        super().__init__(server)
        self._home = home

    def _real(self, path: str) -> Path:
        return self._home / path

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(self._real(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    lstat = stat

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> Any:
        try:
            descriptor = os.open(self._real(path), flags, 0o644)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        handle = paramiko.SFTPHandle(flags)
        writing = flags & (os.O_WRONLY | os.O_RDWR)
        file = os.fdopen(descriptor, "wb" if writing else "rb")
        handle.readfile = handle.writefile = file  # type: ignore[attr-defined]
        return handle

    def remove(self, path: str) -> int:
        return self._do(os.remove, self._real(path))

    def rename(self, oldpath: str, newpath: str) -> int:
        if self._real(newpath).exists():
            return SFTP_FAILURE
        return self._do(os.rename, self._real(oldpath), self._real(newpath))

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        return self._do(os.replace, self._real(oldpath), self._real(newpath))

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        if attr.st_mode is not None:
            return self._do(os.chmod, self._real(path), attr.st_mode)
        return SFTP_OK

    @staticmethod
    def _do(call: Callable[..., None], *arguments: Any) -> int:
        try:
            call(*arguments)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return SFTP_OK


def reset(sock: socket.socket) -> None:
    """Sends RST and forgets the connection, as a rebooted router does; others may be reading it.

    connect(2) with AF_UNSPEC dissolves a connection; a socket that another thread holds is not
    closed by close().
    """
    unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
    ctypes.CDLL(None).connect(sock.fileno(), unspecified, len(unspecified))


class Proxy:
    """A TCP line to a server that can be cut in mid-line, frozen, or made slow."""

    def __init__(self, port: int) -> None:
        self.bytes_per_s: float | None = None
        self.cut_after: int | None = None
        self.cut_by_reset = False
        self.byte_each_s: float | None = None
        self.frozen = threading.Event()
        self.passed = 0
        self._upstream_port = port
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        _in_thread(self._accept)

    def cut(self) -> None:
        """Breaks every connection through it: orderly, or with a reset in both directions."""
        for sock in self._sockets if self.cut_by_reset else ():
            reset(sock)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._upstream_port))
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [near, far]
                _in_thread(functools.partial(self._pump, near, far, down=False))
                _in_thread(functools.partial(self._pump, far, near, down=True))

    def _pass_on(self, data: bytes, sink: socket.socket) -> None:
        """Byte by byte for as long as the line is so slow, what is left then at once."""
        sent = 0
        while self.byte_each_s is not None and sent < len(data):
            time.sleep(self.byte_each_s)
            sink.sendall(data[sent : sent + 1])
            sent += 1
        sink.sendall(data[sent:])

    def _pump(self, source: socket.socket, sink: socket.socket, *, down: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(COPY_BYTES):
                while self.frozen.is_set():
                    time.sleep(0.01)
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                if down:
                    self.passed += len(data)
                    if self.cut_after is not None and self.passed > self.cut_after:
                        self.cut_after = None
                        self.cut()
                        return
                self._pass_on(data, sink)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
