"""Artifacts from the instance: resumed where they broke off, and named once they are whole."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import paramiko

from costguard.remote.digest import sha256_of
from costguard.remote.ssh import WINDOW_BYTES, UnreachableError, session_channel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CHANNEL_TIMEOUT_S = 30.0
HEADER_BYTES_MAX = 64 * 1024
CAPPED_BYTES = 64 * 1024


@dataclass(frozen=True)
class WantedFile:
    """One file of an artifact, as its manifest describes it."""

    path: str
    size: int
    sha256: str


class DownloadError(Exception):
    """A download that failed for a reason other than the connection; `code` names the reason."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


def wanted_files(files: Iterable[Mapping[str, Any]]) -> list[WantedFile]:
    """The files of an artifact, checked: no path may leave its directory.

    Raises DownloadError (`bad_name`): what an instance says is not believed here.
    """
    wanted = []
    for entry in files:
        path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256")
        parts = PurePosixPath(path).parts if isinstance(path, str) else ()
        if not parts or ".." in parts or parts[0] == "/" or "\0" in str(path):
            raise DownloadError("bad_name", f"the artifact names the file {path!r}")
        if not isinstance(size, int) or not isinstance(sha256, str):
            raise DownloadError("bad_name", f"the artifact gives no size or sha256 for {path!r}")
        if len(sha256) != 64 or not all(char in "0123456789abcdef" for char in sha256):
            raise DownloadError("bad_name", f"{path!r} has the sha256 {sha256[:80]!r}")
        wanted.append(WantedFile(str(PurePosixPath(*parts)), size, sha256))
    if not wanted:
        raise DownloadError("bad_name", "the artifact names no file")
    return wanted


def download(
    client: paramiko.SSHClient,
    agent: Sequence[str],
    remote_dir: str,
    files: Sequence[WantedFile],
    target: Path,
    bytes_per_s: float | None = None,
) -> int:
    """Brings an artifact home; returns how many bytes travelled.

    `bytes_per_s` leaves the rest of the line to others; None takes what there is.

    1. What is at `target` already, complete, is left alone.
    2. Each file is fetched into `.NAME.partial` beside `target`, from where the last attempt
       stopped, and counts only once its sha256 is right.
    3. The directory gets its name when every file has matched; an older one of that name is
       replaced in the same moment.

    Raises DownloadError (`bad_hash`, `remote_missing`, `local_disk`), UnreachableError.
    """
    if not lacking(files, target):
        return 0
    staging = target.with_name(f".{target.name}.partial")
    tree = staging / "tree"
    try:
        tree.mkdir(parents=True, exist_ok=True)
        missing = [file for file in files if not _matches(tree / file.path, file)]
        count = 0
        if missing:
            pace = Pace(bytes_per_s, time.monotonic())
            count = _fetch(client, agent, remote_dir, missing, staging, pace)
        _put_in_place(tree, files, target)
        shutil.rmtree(staging)
    except OSError as error:
        raise DownloadError("local_disk", f"{staging}: {error}") from error
    return count


def lacking(files: Iterable[WantedFile], target: Path) -> list[str]:
    """The paths, of these files, that `target` has not got with the right size and sha256."""
    return [file.path for file in files if not _matches(target / file.path, file)]


def _matches(path: Path, file: WantedFile) -> bool:
    try:
        return path.stat().st_size == file.size and sha256_of(path) == file.sha256
    except OSError:
        return False


def _fetch(
    client: paramiko.SSHClient,
    agent: Sequence[str],
    remote_dir: str,
    files: Sequence[WantedFile],
    staging: Path,
    pace: Pace,
) -> int:
    """Fetches what is lacking of each file, over one channel; returns the bytes that came."""
    parts = [_part(staging, file) for file in files]
    offsets = [part.stat().st_size if part.exists() else 0 for part in parts]
    order = json.dumps([[file.path, at] for file, at in zip(files, offsets, strict=True)])
    count = 0
    with session_channel(client, CHANNEL_TIMEOUT_S) as channel:
        _ask(channel, [*agent, "send", f"--dir={remote_dir}"], order)
        try:
            stream = _Received(channel, pace)
            for file, part in zip(files, parts, strict=True):
                came, digest = _take_one(stream, file, part)
                count += came
                _accept(part, file, digest, staging / "tree" / file.path)
        except (EOFError, paramiko.SSHException, TimeoutError) as error:
            raise UnreachableError(f"download: {type(error).__name__}: {error}") from error
    return count


class Pace:
    """How long to wait so that no more than `bytes_per_s` come on average; None: never."""

    def __init__(self, bytes_per_s: float | None, now_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._began_s = now_s
        self._count = 0
        # What is not taken stays with the sender once the window is full.
        self.at_once = WINDOW_BYTES if bytes_per_s is None else CAPPED_BYTES

    def took(self, count: int) -> None:
        """So many bytes have come."""
        self._count += count

    def wait_s(self, now_s: float) -> float:
        """How long the next bytes have to wait, at `now_s`."""
        if self._bytes_per_s is None:
            return 0.0
        return max(0.0, self._began_s + self._count / self._bytes_per_s - now_s)


class _Received:
    """What comes over a channel, by lines and by counts.

    Takes all that is there at once: paramiko's own file object copies its buffer at every read,
    which is quadratic in the window.
    """

    def __init__(self, channel: paramiko.Channel, pace: Pace) -> None:
        self._channel = channel
        self._pace = pace
        self._held = memoryview(b"")

    def line(self) -> bytes:
        """The next line without its end; raises EOFError when the stream ends before."""
        line = b""
        while len(line) < HEADER_BYTES_MAX:
            start, newline, rest = self.read(HEADER_BYTES_MAX).tobytes().partition(b"\n")
            line += start
            if newline:
                self._held = memoryview(rest + self._held.tobytes())
                return line
        raise EOFError("a header without an end")

    def read(self, count: int) -> memoryview:
        """At least one byte and at most `count`; raises EOFError at the end of the stream."""
        if not self._held:
            self._held = memoryview(self._channel.recv(self._pace.at_once))
            self._pace.took(len(self._held))
            time.sleep(self._pace.wait_s(time.monotonic()))
            if not self._held:
                raise EOFError("the stream ended before its time")
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _ask(channel: paramiko.Channel, argv: Sequence[str], order: str) -> None:
    try:
        channel.exec_command(shlex.join(argv))
        channel.sendall(order.encode())
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise UnreachableError(f"download: {type(error).__name__}: {error}") from error


def _part(staging: Path, file: WantedFile) -> Path:
    """Named by path and content: one version's rest is never joined to another's start."""
    name = hashlib.sha256(f"{file.path}\0{file.sha256}".encode()).hexdigest()
    part = staging / f"{name[:32]}.part"
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    return part


def _take_one(stream: _Received, file: WantedFile, part: Path) -> tuple[int, str | None]:
    """The bytes that came, and the file's sha256 where all of it came now.

    Hashed on its way in, beside the decryption; reading it again costs a fifth of the time.
    """
    left = _announced(stream.line(), file)
    held = part.stat().st_size if part.exists() else 0
    if held + left != file.size:
        what = f"{file.path!r} has {held + left} bytes, its manifest says {file.size}"
        raise DownloadError("bad_hash", what)
    count = 0
    digest = hashlib.sha256()
    with part.open("ab") as target:
        while left:
            block = stream.read(left)
            target.write(block)
            digest.update(block)
            left -= len(block)
            count += len(block)
        target.flush()
        os.fsync(target.fileno())
    return count, digest.hexdigest() if held == 0 else None


def _announced(header: bytes, file: WantedFile) -> int:
    try:
        told = json.loads(header)
        if told["path"] == file.path and "error" not in told:
            return int(told["bytes"])
    except (ValueError, KeyError, TypeError):
        told = header.decode("utf-8", "replace")
    raise DownloadError("remote_missing", f"{file.path!r}: the instance says {told}")


def _accept(part: Path, file: WantedFile, digest: str | None, target: Path) -> None:
    is_whole = _matches(part, file) if digest is None else digest == file.sha256
    if not is_whole:
        part.unlink()
        raise DownloadError("bad_hash", f"{file.path!r} is not what its manifest says")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


def _put_in_place(tree: Path, files: Sequence[WantedFile], target: Path) -> None:
    _remove_strangers(tree, {file.path for file in files})
    for directory, _, _ in os.walk(tree):
        _sync_directory(Path(directory))
    older = target.with_name(f".{target.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    if target.exists():
        target.rename(older)
    tree.rename(target)
    _sync_directory(target.parent)
    shutil.rmtree(older, ignore_errors=True)


def _remove_strangers(tree: Path, wanted: set[str]) -> None:
    """Removes what an attempt at an earlier version of the artifact has left."""
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        if path.relative_to(tree).as_posix() not in wanted:
            path.unlink()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
