"""Files to the instance: nothing is sent twice, and each appears whole or not at all.

The machine is paid for while they travel: a large file whose transfer broke off goes on where it
was, and what an earlier stage of the job was sent is linked from there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import paramiko

from costguard.remote.digest import sha256_of
from costguard.remote.ssh import RefusedError, UnreachableError, is_open, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

EXCLUDED = frozenset({"__pycache__"})
PART_SUFFIX = ".costguard-part"
HASH_TIMEOUT_S = 600.0
DIRECTORIES_AT_ONCE = 100
LARGE_BYTES = 4 * 1024 * 1024  # from here on it is worth asking what is there of it
BLOCK_BYTES = 32 * 1024  # what every SFTP server takes in one request


@dataclass(frozen=True)
class Upload:
    """A file or directory of ours, and where it goes, relative to the job's directory."""

    local: Path
    remote: str


@dataclass(frozen=True)
class LocalFile:
    """One file to send; `remote` is relative to the job's directory."""

    local: Path
    remote: str
    size: int
    sha256: str
    executable: bool


def list_files(uploads: Iterable[Upload]) -> list[LocalFile]:
    """Every file that `uploads` name, directories walked, with size and sha256.

    Raises RefusedError (`upload_impossible`) for what is missing, unreadable or not nameable
    there. Python's caches stay here, and so does what is no regular file.
    """
    found: dict[str, LocalFile] = {}
    for upload in uploads:
        for local, remote in _walk(upload):
            found[remote] = _describe(local, remote)
    return list(found.values())


def remote_hashes(
    client: paramiko.SSHClient, agent: Sequence[str], job_dir: str, names: Sequence[str]
) -> dict[str, str | None]:
    """The sha256 of each of `names` below `job_dir`, None where there is no such file.

    Raises RemoteFailedError when the agent cannot be run there.
    """
    argv = [*agent, "hash", f"--dir={job_dir}"]
    done = run(client, argv, stdin=json.dumps(names).encode(), timeout_s=HASH_TIMEOUT_S)
    files = json.loads(done.check("agent.pyz hash").stdout)["files"]
    return {name: (files.get(name) or {}).get("sha256") for name in names}


def send_files(
    client: paramiko.SSHClient,
    job_dir: str,
    files: Sequence[LocalFile],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    agent: Sequence[str] = (),
) -> None:
    """Uploads `files` below `job_dir`; each appears whole under its name or not at all.

    `progress` is told bytes done and total. With `agent`, the start of a large file that came
    before the line broke is kept, if its hash is right. Raises RefusedError (`upload_impossible`)
    when the instance does not take a file, UnreachableError when the connection breaks.
    """
    total, done = sum(file.size for file in files), 0
    progress(done, total)
    _make_directories(client, job_dir, files)
    begun = _begun(client, agent, job_dir, files) if agent else {}
    with _translated(client, "upload"), contextlib.closing(client.open_sftp()) as sftp:
        for file in files:
            report = functools.partial(_report, progress, done, total)
            _send(sftp, file, f"{job_dir}/{file.remote}", report, begun.get(file.remote, 0))
            done += file.size
            progress(done, total)


def link_from(
    client: paramiko.SSHClient,
    agent: Sequence[str],
    job_dir: str,
    files: Sequence[LocalFile],
    neighbours: Sequence[str],
) -> list[LocalFile]:
    """Links large files of the same content from folders beside `job_dir`; what is still missing.

    `neighbours` are relative to `job_dir`. A second name takes no time and no room; a file that is
    sent anew later replaces the name, and not what the neighbour has.
    """
    wanted = [(f"{each}/{file.remote}", file) for each in neighbours for file in files]
    wanted = [(name, file) for name, file in wanted if file.size >= LARGE_BYTES]
    if not wanted:
        return list(files)
    there = remote_hashes(client, agent, job_dir, [name for name, _ in wanted])
    found = {file.remote: name for name, file in wanted if there[name] == file.sha256}
    _make_directories(client, job_dir, [file for file in files if file.remote in found])
    for remote, name in list(found.items()):
        words = ["ln", "-f", "--", f"{job_dir}/{name}", f"{job_dir}/{remote}"]
        if run(client, words).status != 0:  # a file system without links: it is sent
            del found[remote]
    return [file for file in files if file.remote not in found]


def send_bytes(client: paramiko.SSHClient, content: bytes, target: str) -> None:
    """Writes `content` to the file `target` on the instance, whole or not at all."""
    with _translated(client, target), contextlib.closing(client.open_sftp()) as sftp:
        with sftp.file(target + PART_SUFFIX, "wb") as file:
            file.set_pipelined(True)
            file.write(content)
        _rename(sftp, target + PART_SUFFIX, target)


def make_directories(client: paramiko.SSHClient, paths: Sequence[str]) -> None:
    """Makes directories and their parents; raises RefusedError (`upload_impossible`)."""
    done = run(client, ["mkdir", "-p", "--", *paths])
    if done.status != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise RefusedError(f"cannot make the job's directory: {said}", "upload_impossible")


def _walk(upload: Upload) -> Iterator[tuple[Path, str]]:
    local = upload.local
    if not local.is_dir():
        yield local, upload.remote
        return
    for directory, names, files in os.walk(local):
        names[:] = sorted(name for name in names if name not in EXCLUDED)
        for name in sorted(files):
            path = Path(directory) / name
            if path.is_symlink() or path.is_file():
                yield path, str(PurePosixPath(upload.remote) / path.relative_to(local).as_posix())


def _describe(local: Path, remote: str) -> LocalFile:
    try:
        remote.encode("utf-8")
        status = local.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(f"{local} is no regular file", "upload_impossible")
        digest = sha256_of(local)
    except UnicodeEncodeError as error:
        raise RefusedError(
            f"{local!r} has a name that is not UTF-8", "upload_impossible"
        ) from error
    except OSError as error:
        raise RefusedError(f"cannot read {local}: {error.strerror}", "upload_impossible") from error
    return LocalFile(local, remote, status.st_size, digest, bool(status.st_mode & 0o100))


def _make_directories(client: paramiko.SSHClient, job_dir: str, files: Sequence[LocalFile]) -> None:
    parents = sorted({str(PurePosixPath(job_dir, file.remote).parent) for file in files})
    for first in range(0, len(parents), DIRECTORIES_AT_ONCE):
        make_directories(client, parents[first : first + DIRECTORIES_AT_ONCE])


def _report(
    progress: Callable[[int, int], None], before: int, total: int, sent: int, _size: int
) -> None:
    progress(before + sent, total)


def _begun(
    client: paramiko.SSHClient, agent: Sequence[str], job_dir: str, files: Sequence[LocalFile]
) -> dict[str, int]:
    """How many bytes of each large file are there from a transfer that broke off, and are right."""
    large = {f"{file.remote}{PART_SUFFIX}": file for file in files if file.size >= LARGE_BYTES}
    if not large:
        return {}
    argv = [*agent, "hash", f"--dir={job_dir}"]
    done = run(client, argv, stdin=json.dumps(list(large)).encode(), timeout_s=HASH_TIMEOUT_S)
    there = json.loads(done.check("agent.pyz hash").stdout)["files"]
    begun = {}
    for name, file in large.items():
        size = (there.get(name) or {}).get("size")
        if isinstance(size, int) and 0 < size <= file.size:
            ours = sha256_of(file.local, size)
            begun[file.remote] = size if there[name]["sha256"] == ours else 0
    return begun


def _send(
    sftp: paramiko.SFTPClient,
    file: LocalFile,
    target: str,
    progress: Callable[[int, int], None],
    begun: int,
) -> None:
    part = target + PART_SUFFIX
    with file.local.open("rb") as source:
        if begun:
            _append(sftp, source, part, begun, file.size, progress)
        else:
            sftp.putfo(source, part, file.size, progress)
    if file.executable:
        sftp.chmod(part, 0o755)
    _rename(sftp, part, target)


def _append(
    sftp: paramiko.SFTPClient,
    source: BinaryIO,
    part: str,
    begun: int,
    size: int,
    progress: Callable[[int, int], None],
) -> None:
    source.seek(begun)
    with sftp.file(part, "r+b") as sink:
        sink.set_pipelined(True)
        sink.seek(begun)
        while block := source.read(BLOCK_BYTES):
            sink.write(block)
            begun += len(block)
            progress(begun, size)
    there = sftp.stat(part).st_size
    if there != size:
        raise OSError(f"{part}: {there} bytes are there, {size} were sent")


def _rename(sftp: paramiko.SFTPClient, part: str, target: str) -> None:
    """Puts `part` in the place of `target`; servers without the extension need two steps."""
    try:
        sftp.posix_rename(part, target)
    except OSError:
        with contextlib.suppress(OSError):
            sftp.remove(target)
        sftp.rename(part, target)


@contextlib.contextmanager
def _translated(client: paramiko.SSHClient, what: str) -> Iterator[None]:
    """Turns what paramiko raises into our errors: a broken connection, or a refusal."""
    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:
        text = f"{what}: {type(error).__name__}: {error}"
        answered = isinstance(error, OSError) and not isinstance(error, TimeoutError)
        if answered and is_open(client):
            code = (
                "disk_full"
                if getattr(error, "errno", None) == errno.ENOSPC
                else "upload_impossible"
            )
            raise RefusedError(text, code) from error
        raise UnreachableError(text) from error
