"""A model on this disk: a directory as it is, or a hub's, fetched once, resumed and verified.

Rented time is paid by the second, so a broken download goes on where it stopped, several files
come at once, and what is whole is not fetched or hashed again. A file gets its name only when its
size and hash are the hub's. Standard library.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.exits import USAGE, Refusal
from trainer.hubs import Hub, HubError, RemoteFile, hubs, open_url
from trainer.progress import tell, warn

TIMEOUT_S = 60.0
ATTEMPTS = 6
PIECE_BYTES = 2**20
FILES_AT_ONCE = 4
SPARE_BYTES = 2**30
"""Left free on the disk beside the model: the run's logs and checkpoints need room too."""
MARKER = "costguard-model.json"
SCHEMA = "costguard.model/1"

Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Wanted:
    """A model as a command line names it."""

    name: str
    source: str | None = None
    revision: str | None = None
    cache_dir: Path | None = None


def locate(wanted: Wanted, sleep: Sleep = time.sleep) -> Path:
    """The directory of the model, fetched if need be; raises Refusal."""
    directory = Path(wanted.name)
    if directory.is_dir():
        return directory
    if wanted.source == "path":
        hint = "give a directory that is there, or leave --model_source out"
        raise Refusal(USAGE, "there is no such directory", where=wanted.name, hint=hint)
    target = cache_root(wanted.cache_dir) / wanted.name.replace("/", "--")
    target = target / (wanted.revision or "main").replace("/", "--")
    if is_whole(target):
        return target
    failures = []
    for hub in hubs(wanted.source):
        try:
            revision, files = hub.list_files(wanted.name, wanted.revision)
        except HubError as error:
            failures.append(f"{hub.name}: {error}")
            continue
        for failure in failures:
            warn(failure)
        _fetch_all(hub, wanted.name, revision, files, target, sleep)
        return target
    raise Refusal(
        USAGE,
        f"no hub gave its list of files: {'; '.join(failures)}",
        where=wanted.name,
        hint="check the name and the network; HF_ENDPOINT names a mirror of Hugging Face",
    )


def cache_root(given: Path | None) -> Path:
    """Where fetched models are kept: as given, else COSTGUARD_MODELS, else the user's cache."""
    if given is not None:
        return given
    named = os.environ.get("COSTGUARD_MODELS")
    return Path(named) if named else Path.home() / ".cache" / "costguard" / "models"


def is_whole(directory: Path) -> bool:
    """Whether all files of a fetched model are there as they were when their hashes were checked.

    Sizes and times of change are compared, not 15 GB hashed again: that would cost half a minute.
    """
    try:
        files = read_marker(directory)["files"]
        entries = [(str(e["path"]), e["size"], e["mtime_ns"]) for e in files]
        states = [(directory / path).stat() for path, _size, _mtime in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    pairs = zip(entries, states, strict=True)
    return all((s.st_size, s.st_mtime_ns) == (size, mtime) for (_p, size, mtime), s in pairs)


def _fetch_all(
    hub: Hub, name: str, revision: str, files: list[RemoteFile], target: Path, sleep: Sleep
) -> None:
    total = sum(file.size for file in files)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _require_room(target, files)
        tell(f"{name} from {hub.endpoint}: {len(files)} files, {total / 1e9:.2f} GB -> {target}")
        began_s = time.monotonic()
        fetch = functools.partial(_fetch, directory=target, sleep=sleep)
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            entries = list(pool.map(fetch, files))
        write_marker(target, {"hub": hub.endpoint, "name": name, "revision": revision}, entries)
    except OSError as error:
        hint = "free the disk, or give another --cache_dir"
        raise Refusal(USAGE, f"{error.strerror or error}", where=str(target), hint=hint) from error
    tell(f"{name}: whole and verified after {time.monotonic() - began_s:.0f} s")


def _require_room(target: Path, files: list[RemoteFile]) -> None:
    """Refuse at once what would fail after minutes of paid download."""
    needed = SPARE_BYTES
    for file in files:
        for path in (target / file.path, _partial(target, file)):
            if path.is_file():
                needed -= min(path.stat().st_size, file.size)
                break
        needed += file.size
    free = shutil.disk_usage(target).free
    if free < needed:
        what = f"the model needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"
        hint = "free the disk, or give another --cache_dir"
        raise Refusal(USAGE, what, where=str(target), hint=hint)


def _fetch(file: RemoteFile, directory: Path, sleep: Sleep) -> dict[str, Any]:
    """The marker's entry of one file, once it is there and is what the hub says. Refusal."""
    target, partial = directory / file.path, _partial(directory, file)
    if target.is_file():
        target.replace(partial)  # whole or not, it is checked as one that just came
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            warn(f"{file.path}: {failure}; attempt {attempt + 1} of {ATTEMPTS}")
            sleep(min(30.0, 2.0**attempt))
        try:
            _append(file, partial)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as e:
            failure = f"the connection broke ({e})"
            continue
        wrong = _difference(file, partial)
        if not wrong:
            partial.replace(target)
            state = target.stat()
            return {"path": file.path, "size": state.st_size, "mtime_ns": state.st_mtime_ns,
                    "sha256": file.sha256, "git_sha1": file.git_sha1}  # fmt: skip
        failure = wrong
        if partial.stat().st_size >= file.size:  # not short but wrong: nothing in it can be trusted
            partial.unlink()
    hint = "run the same again to go on, or name another hub with --model_source"
    raise Refusal(USAGE, failure, where=file.url, hint=hint)


def _append(file: RemoteFile, partial: Path) -> None:
    """Fetch what is missing at the end of `partial`."""
    have = partial.stat().st_size if partial.is_file() else 0
    if have >= file.size and partial.is_file():
        return
    with open_url(file.url, timeout_s=TIMEOUT_S, first_byte=have) as response:
        resumed = have and response.status == http.HTTPStatus.PARTIAL_CONTENT
        with partial.open("ab" if resumed else "wb") as stream:
            while piece := response.read(PIECE_BYTES):
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())


def _difference(file: RemoteFile, path: Path) -> str:
    """What is wrong with a fetched file; empty if nothing is."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes came, the hub says {file.size}"
    if file.sha256 and _hash(path, hashlib.sha256()) != file.sha256.lower():
        return "its sha256 is not the hub's"
    if file.git_sha1:
        header = f"blob {size}\0".encode()  # what git hashes before a file's content
        if _hash(path, hashlib.sha1(header, usedforsecurity=False)) != file.git_sha1.lower():
            return "its git hash is not the hub's"
    return ""


def _hash(path: Path, digest: Any) -> str:
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    text: str = digest.hexdigest()
    return text


def _partial(directory: Path, file: RemoteFile) -> Path:
    """Where a file grows. Its name bears the hash, so that another revision starts anew."""
    version = (file.sha256 or file.git_sha1 or str(file.size))[:12]
    return directory / f".{file.path}.{version}.part"


def read_marker(directory: Path) -> dict[str, Any]:
    """What the marker says; empty if there is none that can be read."""
    try:
        document = json.loads((directory / MARKER).read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_marker(directory: Path, facts: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Say of a directory that it is whole: written last, atomically."""
    document = {"schema": SCHEMA, **facts, "files": entries}
    temporary = directory / f".{MARKER}-{os.getpid()}"
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(directory / MARKER)
