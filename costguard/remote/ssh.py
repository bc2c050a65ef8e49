"""One SSH connection with a pinned host key, and commands run over it without a shell of ours.

SshError
├── UnreachableError   no connection, no banner, or it broke: worth trying again
├── RefusedError       trying again changes nothing until somebody does something
│   ├── HostKeyChangedError  the instance shows another key than the pinned one
│   └── AuthRefusedError     the instance does not take our key or user
└── RemoteFailedError  a command ran and ended with another status than 0
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import IncompatiblePeer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pydantic import SecretStr

CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 5
SSH_PORT = 22
RSA_TYPES = {"rsa-sha2-512", "rsa-sha2-256"}
KNOWN_KEY_TYPES = RSA_TYPES | {
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
}
SLICE_S = 0.1
OUTPUT_BYTES_MAX = 4 * 1024 * 1024
# A line with 100 ms to and fro then carries 80 MiB/s. The packets must grow with the window:
# 16 MiB in paramiko's usual 32 KiB pieces came at a sixth of the speed of 8 MiB in these.
WINDOW_BYTES = 8 * 1024 * 1024
PACKET_BYTES = 256 * 1024
# paramiko tells its own log of every refused key with a trace; our errors say it once.
LOG_CHANNEL = "costguard.remote.wire"


class SshError(Exception):
    """What went wrong on the way to an instance, in one sentence."""


class UnreachableError(SshError):
    """No connection, or it broke; the next attempt may succeed."""


class RefusedError(SshError):
    """The instance and we do not agree; the next attempt would end the same way.

    `code` is a stable word for what was refused.
    """

    code = "refused"

    def __init__(self, what: str, code: str | None = None) -> None:
        super().__init__(what)
        if code is not None:
            self.code = code


class HostKeyChangedError(RefusedError):
    """The instance shows a host key that is not the pinned one: no word more is said to it."""

    code = "host_key_changed"


class AuthRefusedError(RefusedError):
    """The instance does not let us in."""

    code = "auth_refused"


class RemoteFailedError(SshError):
    """A command ended with a status other than 0."""


@dataclass(frozen=True)
class SshTarget:
    """Where an instance is reached, how it is recognised, and how it knows us.

    `host_keys`: lines as in known_hosts without the host, such as `ssh-ed25519 AAAA…`. Where there
    are none and `trusts_first`, whatever key is shown first is believed: only for an instance that
    we ourselves started moments ago. With a `password` no key of ours is offered.
    """

    host: str
    port: int
    user: str
    host_keys: tuple[str, ...]
    client_key_path: Path
    password: SecretStr | None = None
    trusts_first: bool = False


@dataclass(frozen=True)
class Completed:
    """A command that has ended; `status` is -1 when the instance named none."""

    status: int
    stdout: bytes
    stderr: bytes

    def check(self, what: str) -> Completed:
        """Itself when the status is 0; else raises RemoteFailedError with the last of stderr."""
        if self.status != 0:
            said = (self.stderr or self.stdout).decode("utf-8", "replace").strip()[-500:]
            raise RemoteFailedError(f"{what} ended with status {self.status}: {said}")
        return self


class QuickTransport(paramiko.Transport):
    """A connection that asks for AES-GCM first: one pass over the data instead of two.

    paramiko offers it last, and a checkpoint of 100 MB then takes a quarter longer than with scp.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        security = self.get_security_options()
        security.ciphers = sorted(security.ciphers, key=lambda name: "-gcm@" not in name)


def connect(
    target: SshTarget,
    *,
    timeout_s: float = CONNECT_TIMEOUT_S,
    opened: Callable[[socket.socket], None] | None = None,
) -> paramiko.SSHClient:
    """A connection whose host key is one of the pinned; the caller closes it.

    Each stage (TCP, banner and key exchange, log-in) has `timeout_s`. `opened` is given the
    socket as soon as it exists, so that another thread can shut it down at any moment. Only the
    pinned keys and the one way to log in are used: no agent, no known_hosts, no other key.
    """
    where = f"{target.user}@{target.host}:{target.port}"
    password = target.password
    client_key = load_client_key(target.client_key_path) if password is None else None
    client, key_types = _client(target)
    try:
        sock = socket.create_connection((target.host, target.port), timeout_s)
        # Small messages to and fro: without this each waits 40 ms for an acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if opened is not None:
            opened(sock)
        client.connect(
            target.host,
            target.port,
            username=target.user,
            pkey=client_key,
            password=None if password is None else password.get_secret_value(),
            sock=sock,
            timeout=timeout_s,
            banner_timeout=timeout_s,
            auth_timeout=timeout_s,
            channel_timeout=timeout_s,
            transport_factory=QuickTransport,
            allow_agent=False,
            look_for_keys=False,
            disabled_algorithms={"keys": sorted(KNOWN_KEY_TYPES - key_types)},
        )
    except (OSError, EOFError, paramiko.SSHException) as error:
        credential = "the key" if password is None else "the password"
        broken = _explain(client, where, credential, error)
        client.close()
        raise broken from error
    transport = client.get_transport()
    if transport is None:
        raise UnreachableError(f"{where}: the connection closed at once")
    transport.set_keepalive(KEEPALIVE_S)
    return client


def run(
    client: paramiko.SSHClient,
    argv: Sequence[str],
    stdin: bytes | None = None,
    timeout_s: float = 30.0,
) -> Completed:
    """Runs one command to its end, each argument quoted for the instance's shell.

    Raises UnreachableError when the connection breaks or `timeout_s` has passed. Of each
    output the first 4 MiB are kept.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with session_channel(client, timeout_s) as channel:
            channel.exec_command(shlex.join(argv))
            if stdin is not None:
                channel.sendall(stdin)
            channel.shutdown_write()
            return _collect(channel, deadline, argv[0])
    except TimeoutError as error:
        raise UnreachableError(f"{argv[0]} gave no answer within {timeout_s} s") from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise UnreachableError(f"the connection broke: {type(error).__name__}: {error}") from error


def open_channel(client: paramiko.SSHClient, timeout_s: float) -> paramiko.Channel:
    """A new session channel with a large window; raises UnreachableError when there is none."""
    transport = client.get_transport()
    if transport is None or not is_open(client):
        raise UnreachableError("the connection is closed")
    channel = transport.open_session(WINDOW_BYTES, PACKET_BYTES, timeout_s)
    channel.settimeout(timeout_s)
    return channel


@contextlib.contextmanager
def session_channel(client: paramiko.SSHClient, timeout_s: float) -> Iterator[paramiko.Channel]:
    """`open_channel`, closed afterwards, be the connection alive or not."""
    channel = open_channel(client, timeout_s)
    try:
        yield channel
    finally:
        close_channel(channel)


def close_channel(channel: paramiko.Channel) -> None:
    """Closes it; that it was closed by a broken connection already is no news."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


def is_open(client: paramiko.SSHClient) -> bool:
    """Whether the connection stands, as far as this side knows."""
    transport = client.get_transport()
    return transport is not None and bool(transport.is_active())


def make_client_key(path: Path) -> str:
    """The public line of the ed25519 key in `path`, made now if there is none yet.

    Readable by its owner alone. The file appears whole or not at all, so two that start
    together agree on one key.
    """
    if not path.exists():
        private = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(private)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
    key = load_client_key(path)
    return f"{key.get_name()} {key.get_base64()} costguard"


def load_client_key(path: Path) -> paramiko.PKey:
    """The private key in `path`; raises AuthRefusedError when it cannot be used."""
    try:
        key = paramiko.PKey.from_path(path)
    except (OSError, ValueError, paramiko.SSHException, UnknownKeyType) as error:
        raise AuthRefusedError(f"the client key {path} cannot be used: {error}") from error
    return key


def parse_host_key(line: str) -> paramiko.PKey:
    """The key in a line such as `ssh-ed25519 AAAA… comment`; raises HostKeyChangedError."""
    try:
        entry = HostKeyEntry.from_line(f"pinned {line.strip()}")
    except (InvalidHostKey, paramiko.SSHException, ValueError):
        entry = None
    if entry is None or entry.key is None:
        raise HostKeyChangedError(f"the pinned host key cannot be read: {line[:80]!r}")
    return entry.key


def shown_host_key(client: paramiko.SSHClient) -> str:
    """The line of the host key that this open connection was made with."""
    transport = client.get_transport()
    if transport is None:
        raise UnreachableError("the connection is closed")
    return _line(transport.get_remote_server_key())


def scan_host_key(host: str, port: int, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """The line of the key that a host shows to anybody; nothing is believed of it by that.

    For a person to compare with what the host itself says on another way.
    """
    try:
        with contextlib.closing(socket.create_connection((host, port), timeout_s)) as sock:
            transport = paramiko.Transport(sock)
            transport.set_log_channel(LOG_CHANNEL)
            with contextlib.closing(transport):
                transport.start_client(timeout=timeout_s)
                return _line(transport.get_remote_server_key())
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise UnreachableError(f"{host}:{port}: {type(error).__name__}: {error}") from error


def fingerprint(line: str) -> str:
    """A host key's SHA256 fingerprint, as `ssh-keygen -l` prints it."""
    return str(parse_host_key(line).fingerprint)


def _line(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


class _FirstUse(paramiko.MissingHostKeyPolicy):
    """Takes the key that is shown; whoever connects pins it before anything is sent."""

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Believe it for this connection."""


def _client(target: SshTarget) -> tuple[paramiko.SSHClient, set[str]]:
    """A client that knows the pinned keys, and the key algorithms that fit them.

    Others are never offered: a server with several keys must show a pinned one.
    """
    client = paramiko.SSHClient()
    client.set_log_channel(LOG_CHANNEL)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    keys = [parse_host_key(line) for line in target.host_keys]
    if not keys and target.trusts_first:
        client.set_missing_host_key_policy(_FirstUse())
        return client, KNOWN_KEY_TYPES
    if not keys:
        raise HostKeyChangedError(f"no host key is pinned for {target.host}:{target.port}")
    # The name under which paramiko looks a key up: bare for port 22, in brackets for others.
    name = target.host if target.port == SSH_PORT else f"[{target.host}]:{target.port}"
    for key in keys:
        client.get_host_keys().add(name, key.get_name(), key)
    types = {key.get_name() for key in keys}
    return client, types | (RSA_TYPES if "ssh-rsa" in types else set())


def _explain(client: paramiko.SSHClient, where: str, credential: str, error: Exception) -> SshError:
    if isinstance(error, paramiko.BadHostKeyException):
        shown = f"{error.key.get_name()} {error.key.fingerprint}"
        return HostKeyChangedError(f"{where} shows another host key than the pinned one: {shown}")
    if isinstance(error, IncompatiblePeer) and "host key" in str(error):
        return HostKeyChangedError(f"{where} has no host key of the pinned type")
    # A server that refuses us says so and stays; one that went away has refused nothing.
    stayed = is_open(client) and "timeout" not in str(error)
    if isinstance(error, paramiko.AuthenticationException) and stayed:
        return AuthRefusedError(f"{where} does not let us in with {credential}: {error}")
    return UnreachableError(f"{where}: {type(error).__name__}: {error}")


def _collect(channel: paramiko.Channel, deadline: float, name: str) -> Completed:
    stdout, stderr = bytearray(), bytearray()
    channel.settimeout(SLICE_S)
    open_ = True
    while open_ or not channel.exit_status_ready():
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        if open_:
            with contextlib.suppress(TimeoutError):
                data = channel.recv(65536)
                open_ = bool(data)
                stdout += data[: OUTPUT_BYTES_MAX - len(stdout)]
        else:
            channel.status_event.wait(SLICE_S)
        while channel.recv_stderr_ready():
            stderr += channel.recv_stderr(65536)[: OUTPUT_BYTES_MAX - len(stderr)]
        if not open_ and channel.closed:
            break
    while channel.recv_stderr_ready():
        stderr += channel.recv_stderr(65536)[: OUTPUT_BYTES_MAX - len(stderr)]
    status = channel.recv_exit_status()
    if status < 0 and not channel.eof_received:
        raise EOFError("the command was cut off")
    return Completed(status, bytes(stdout), bytes(stderr))


logging.getLogger(LOG_CHANNEL).addHandler(logging.NullHandler())
logging.getLogger(LOG_CHANNEL).propagate = False
