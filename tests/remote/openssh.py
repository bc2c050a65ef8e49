"""OpenSSH's own sshd as an ordinary process on a high port, where it is installed."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from costguard.remote.ssh import SshTarget, make_client_key
from tests.agent.harness import wait_until

PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {host_key}
AuthorizedKeysFile {authorized}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""


def sshd_path() -> str | None:
    """Where sshd is, or None."""
    return shutil.which("sshd", path=PLACES)


PRIVSEP = Path("/run/sshd")


def make_privsep() -> None:
    """As root, sshd insists on an empty directory that its service makes; a user needs none."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # then `why_not` says that it is missing
            PRIVSEP.mkdir(mode=0o755, exist_ok=True)


class OpenSsh:
    """An instance whose SSH server is the one that real instances have."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        base = home.parent
        self.key_path = base / "client_key"
        (base / "authorized").write_text(make_client_key(self.key_path) + "\n")
        self._host_key = make_client_key(base / "host_key")
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port: int = free.getsockname()[1]
        names = {"host_key": base / "host_key", "authorized": base / "authorized"}
        (base / "sshd_config").write_text(CONFIG.format(port=self.port, **names))
        self._argv = [str(sshd_path()), "-D", "-e", "-f", str(base / "sshd_config")]
        self._log = (base / "sshd.log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def why_not(self) -> str:
        """Why this machine cannot run it, or ""."""
        make_privsep()
        done = subprocess.run([*self._argv, "-t"], capture_output=True, check=False)
        return done.stderr.decode().strip() if done.returncode else ""

    def start(self) -> None:
        """Starts the server; returns once it answers."""
        self._process = subprocess.Popen(self._argv, stderr=self._log, start_new_session=True)
        wait_until(self._answers, "sshd")

    def target(self, **other: Any) -> SshTarget:
        """How to reach it."""
        usual: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "host_keys": (self._host_key,),
            "client_key_path": self.key_path,
        }
        return SshTarget(**{**usual, **other})

    def change_host_key(self) -> None:
        """Another machine answers at the same address from now on."""
        (self.home.parent / "host_key").unlink()
        make_client_key(self.home.parent / "host_key")
        self.cut()

    def cut(self) -> None:
        """Ends the server and every connection, and starts it anew, as an update does."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Ends the server and its sessions."""
        if self._process is not None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            with contextlib.suppress(OSError):
                for pid in children.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5)
            self._process = None

    def close(self) -> None:
        """Ends it for good."""
        self.stop()
        self._log.close()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
