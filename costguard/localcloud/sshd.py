"""The process behind a running instance: its SSH server, and the root of all that it runs.

Its standard input is the power cord. When the platform dies, however it dies, the cord's end of
file makes this process end everything the instance runs, note the time, and end itself.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    MSG_CHANNEL_REQUEST,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)
from paramiko.ssh_exception import SSHException

from costguard.localcloud import execs, processes
from costguard.localcloud.hardening import confine
from costguard.localcloud.sftp import ConfinedSftp

USER = "root"
LOOPBACK = "127.0.0.1"
BACKLOG = 128
POWER_CUT_KILL_S = 30.0
MS_PER_S = 1_000


class Guard(paramiko.ServerInterface):
    """What a connection may do: one key, one user, exec and SFTP; everything else is refused."""

    def __init__(self, authorized_key: str, spawner: execs.Spawner) -> None:
        self._authorized_key = authorized_key
        self._spawner = spawner
        self._commands: dict[int, bytes] = {}
        self._used: set[int] = set()

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        """Keys only."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        """The key given at create, for root."""
        offered = f"{key.get_name()} {key.get_base64()}"
        is_right = username == USER and offered == self._authorized_key
        return AUTH_SUCCESSFUL if is_right else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        """Sessions, and no forwarding of any kind."""
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        """One command per channel (RFC 4254 section 6.5); it starts after the answer is sent."""
        if channel.get_id() in self._used:
            return False
        self._used.add(channel.get_id())
        self._commands[channel.get_id()] = command
        return True

    def start_requested(self, channel: paramiko.Channel) -> None:
        """Start the command that this channel's last request asked for, if it did."""
        command = self._commands.pop(channel.get_id(), None)
        if command is not None:
            threading.Thread(
                target=execs.serve, args=(channel, command, self._spawner), daemon=True
            ).start()


def _answer_then_start(channel: paramiko.Channel, message: paramiko.Message) -> None:
    channel._handle_request(message)  # type: ignore[attr-defined]  # noqa: SLF001
    server = channel.get_transport().server_object
    if isinstance(server, Guard):
        server.start_requested(channel)


class Transport(paramiko.Transport):
    """A transport that starts a command only after its request has been answered.

    Otherwise a quick command's end could overtake the answer, and the client would report that the
    channel was closed. paramiko offers no hook after the answer, hence its table of handlers.
    """

    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]  # noqa: SLF001
        MSG_CHANNEL_REQUEST: _answer_then_start,
    }


class Sshd:
    """The SSH server of one instance, configured by the file the platform wrote for this boot."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._disk = Path(config["disk"])
        self._host_key = paramiko.Ed25519Key(file_obj=StringIO(config["host_private_key"]))
        self._authorized_key = str(config["ssh_public_key"])
        self.spawner = execs.Spawner(self._disk, config["environment"])
        self.listener = socket.create_server((LOOPBACK, 0), backlog=BACKLOG)

    def accept_forever(self) -> None:
        """Serve every connection on a thread of its own until the listener is closed."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = Transport(connection)
        transport.add_server_key(self._host_key)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, ConfinedSftp, self._disk)
        try:
            transport.start_server(server=Guard(self._authorized_key, self.spawner))
        except (SSHException, EOFError, OSError):
            transport.close()


def main(config_path: str) -> None:
    """Run the instance until it is killed or the power cord is pulled."""
    os.umask(0o022)
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    config = json.loads(Path(config_path).read_text(encoding="utf-8"))
    confine()
    sshd = Sshd(config)
    threading.Thread(target=sshd.accept_forever, name="accept", daemon=True).start()
    sys.stdout.write(json.dumps({"port": sshd.listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    sshd.spawner.close()
    left = processes.kill_instance(
        config["instance"], os.getpid(), timeout_s=POWER_CUT_KILL_S, keep_root=True
    )
    if not left:
        off_at_ms = int(time.time() * MS_PER_S)
        Path(config["off_file"]).write_text(str(off_at_ms), encoding="ascii")
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
