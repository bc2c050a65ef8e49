"""Bringing a checkpoint home, against plain `scp` of the same file in the same run.

`python -m tests.bench.pull_speed`: through OpenSSH's own sshd on loopback, and through a line that
carries 100 Mbit/s. Runs take turns, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from costguard.remote.bundle import build_agent
from costguard.remote.download import WantedFile, download
from costguard.remote.prepare import ISOLATED
from costguard.remote.ssh import connect
from tests.remote.openssh import OpenSsh, sshd_path
from tests.remote.ssh_server import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_MB = int(os.environ.get("PULL_SPEED_MB", "200"))
SLOW_SIZE_MB = 40
SLOW_BYTES_PER_S = 100e6 / 8
RUNS = 3
NAME = "adapter_model.safetensors"


def measure() -> None:
    """Print MB/s of ours, of scp and of SFTP reads, free and over a limited line."""
    if sshd_path() is None or shutil.which("scp") is None:
        print("pull: OpenSSH's sshd or scp is not installed, nothing was measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        server = OpenSsh(Path(folder) / "instance" / "home")
        try:
            if reason := server.why_not():
                print(f"pull: sshd cannot run here: {reason}")
                return
            server.start()
            _compare("loopback", server, server.port, SIZE_MB, Path(folder))
            proxy = Proxy(server.port)
            proxy.bytes_per_s = SLOW_BYTES_PER_S
            _compare("a line of 100 Mbit/s", server, proxy.port, SLOW_SIZE_MB, Path(folder))
            proxy.close()
        finally:
            server.close()


def _compare(title: str, server: OpenSsh, port: int, size_mb: int, folder: Path) -> None:
    there = server.home / f"job-{size_mb}"
    (there / "output").mkdir(parents=True)
    content = os.urandom(size_mb * 1_000_000)
    (there / "output" / NAME).write_bytes(content)
    (there / "agent.pyz").write_bytes(build_agent())
    digest = hashlib.sha256(content).hexdigest()
    wanted = [WantedFile(NAME, len(content), digest)]
    target = folder / "home"
    ways: dict[str, Callable[[], None]] = {
        "ours": lambda: _ours(server, port, there, wanted, target / "adapter"),
        "scp": lambda: _scp(server, port, there / "output" / NAME, target / "scp"),
        "SFTP reads": lambda: _sftp(server, port, there / "output" / NAME, target / "sftp"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(RUNS):
        for way, run in ways.items():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            began = time.monotonic()
            run()
            seconds[way].append(time.monotonic() - began)
    rates = {way: size_mb / median(took) for way, took in seconds.items()}
    shown = ", ".join(f"{way} {rate:.1f} MB/s" for way, rate in rates.items())
    print(
        f"pull of {size_mb} MB over {title} ({RUNS} runs each, log-in and sha256 included):"
        f" {shown}; ours/scp = {rates['ours'] / rates['scp']:.2f}   (aim: at least 0.8)"
    )


def _ours(server: OpenSsh, port: int, there: Path, wanted: list[WantedFile], target: Path) -> None:
    agent = (sys.executable, *ISOLATED, str(there / "agent.pyz"))
    with contextlib.closing(connect(server.target(port=port))) as client:
        download(client, agent, str(there / "output"), wanted, target)


def _scp(server: OpenSsh, port: int, source: Path, target: Path) -> None:
    known = target.with_suffix(".known")
    keys = server.target().host_keys
    known.write_text("".join(f"[127.0.0.1]:{port} {key}\n" for key in keys), encoding="ascii")
    options = {
        "UserKnownHostsFile": str(known),
        "IdentityFile": str(server.key_path),
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
    }
    words = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    user = server.target().user
    command = ["scp", "-q", "-F", "none", "-P", str(port), *words]
    subprocess.run([*command, f"{user}@127.0.0.1:{source}", str(target)], check=True)


def _sftp(server: OpenSsh, port: int, source: Path, target: Path) -> None:
    with contextlib.closing(connect(server.target(port=port))) as client:
        remote = client.open_sftp().open(str(source), "rb")
        with remote, target.open("wb") as file:
            # One read after the other, as a loop over a remote file does.
            while block := remote.read(32 * 1024):
                file.write(block)


if __name__ == "__main__":
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    measure()
    sys.exit(0)
