"""Checkpoints and adapters in the output directory, verified against their manifests.

Checkpoints without a manifest are those of another trainer: `foreign.py` has the rule for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from costguard.agent import foreign
from costguard.agent.digest import sha256_of
from costguard.agent.publish import publish, published, source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MANIFEST = "manifest.json"
ADAPTER = "adapter"
CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
MANIFEST_BYTES = 4 * 1024 * 1024
SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(ValueError):
    """The directory is not what its manifest says; the text says in what."""


@dataclass(frozen=True)
class Found:
    """A directory with a manifest; `identity` changes whenever the manifest is written anew."""

    name: str
    identity: str

    @property
    def may_grow(self) -> bool:
        """Whether it may still be written to: one without a manifest, until two looks agree."""
        return self.identity.startswith(foreign.LISTING)


def list_artifacts(output: Path) -> list[Found]:
    """Every checkpoint and adapter that has a manifest now, complete or not, oldest first."""
    try:
        names = [entry.name for entry in os.scandir(output)]
    except OSError:
        return []
    found = []
    for name in names:
        if name == ADAPTER or CHECKPOINT.fullmatch(name):
            with contextlib.suppress(OSError):
                at_ns, identity = _identity(output / name)
                if identity is not None:
                    found.append((at_ns, Found(name, identity)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _identity(directory: Path) -> tuple[int, str | None]:
    """When it was written and what tells this writing from the next; raises OSError."""
    manifest = directory / MANIFEST
    if manifest.exists():
        status = manifest.stat()
        return status.st_mtime_ns, f"{status.st_ino}:{status.st_mtime_ns}"
    state = directory / foreign.STATE
    return state.stat().st_mtime_ns, foreign.identity(directory)


def verify(output: Path, found: Found) -> dict[str, Any] | None:
    """The `checkpoint` message for a directory, `complete` or with the `detail` of why not.

    None when the directory has gone meanwhile, as rotation does.
    """
    kind = "adapter" if found.name == ADAPTER else "checkpoint"
    match = CHECKPOINT.fullmatch(found.name)
    record: dict[str, Any] = {
        "name": found.name,
        "kind": kind,
        "step": int(match.group(1)) if match else None,
        "complete": False,
        "files": [],
        "bytes": 0,
        "manifest_id": found.identity,
    }
    if kind == "checkpoint" and not (output / found.name / MANIFEST).exists():
        return _verify_foreign(output / found.name, record)
    try:
        manifest, listed = _read_manifest(output / found.name)
        files = [_checked_file(output / found.name, entry) for entry in manifest["files"]]
    except ManifestError as error:
        return {**record, "detail": str(error)}
    except OSError as error:
        if not (output / found.name / MANIFEST).exists():
            return None
        return {**record, "detail": f"{type(error).__name__}: {error.strerror}"}
    step = manifest.get("step")
    if isinstance(step, int) and not isinstance(step, bool):
        record["step"] = step
    files = [*(file for file in files if file["path"] != MANIFEST), listed]
    total = sum(file["size"] for file in files)
    return {**record, "complete": True, "files": files, "bytes": total}


def _verify_foreign(directory: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    try:
        files = foreign.verify(directory, record["step"])
    except foreign.TornError as error:
        return {**record, "detail": str(error)}
    except OSError as error:
        if not (directory / foreign.STATE).exists():
            return None
        return {**record, "detail": f"{type(error).__name__}: {error.strerror}"}
    total = sum(file["size"] for file in files)
    return {**record, "complete": True, "files": files, "bytes": total}


def _read_manifest(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest, and its own entry: it travels with what it describes."""
    with (directory / MANIFEST).open("rb") as file:
        data = file.read(MANIFEST_BYTES + 1)
    if len(data) > MANIFEST_BYTES:
        raise ManifestError(f"{MANIFEST} is larger than {MANIFEST_BYTES} bytes")
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
        raise ManifestError(f"{MANIFEST} has no list of files")
    if not manifest["files"]:
        raise ManifestError(f"{MANIFEST} names no file")
    digest = hashlib.sha256(data).hexdigest()
    return manifest, {"path": MANIFEST, "size": len(data), "sha256": digest}


def _checked_file(directory: Path, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ManifestError(f"{MANIFEST} has an entry that is no object")
    path, size, digest = _fields(entry)
    try:
        if (directory / path).stat().st_size != size:
            raise ManifestError(f"{path!r} is not {size} bytes long")
        if sha256_of(directory / path) != digest:
            raise ManifestError(f"{path!r} has another sha256 than its manifest says")
    except FileNotFoundError as error:
        raise ManifestError(f"{path!r} is missing") from error
    return {"path": path, "size": size, "sha256": digest}


def _fields(entry: Mapping[str, Any]) -> tuple[str, int, str]:
    path = entry.get("path", entry.get("name"))
    size, digest = entry.get("size"), entry.get("sha256")
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if not parts or ".." in parts or parts[0] == "/" or "\0" in path:
        raise ManifestError(f"{path!r} is no path inside the directory")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ManifestError(f"{path!r} has no size")
    if not isinstance(digest, str) or not SHA256.fullmatch(digest):
        raise ManifestError(f"{path!r} has no sha256")
    return str(path), size, digest


class ArtifactWatcher:
    """Sees new checkpoints and adapters, and verifies each once, in a thread of its own.

    `known` maps a name to the identity that was already there, or already reported.
    """

    def __init__(
        self,
        output: Path,
        known: Mapping[str, str],
        wake: Callable[[], None],
        *,
        publishes: bool = False,
    ) -> None:
        self.adapter: dict[str, Any] | None = None
        self._output = output
        self._known = dict(known)
        self._wake = wake
        self._waiting: queue.SimpleQueue[Found | str] = queue.SimpleQueue()
        self._verified: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._pending = 0
        self._seen: dict[str, str] = {}
        self._publishes = publishes
        self._published = published(output)
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Whether everything seen so far has been verified and handed out."""
        return self._pending == 0

    def poll(self, *, final: bool = False) -> list[dict[str, Any]]:
        """The `checkpoint` messages that have become ready; looks for new directories.

        `final`: nobody writes any more, so that no second look is needed.
        """
        ready = list(self._ready())
        if self._publishes:
            source = source_of(self._output)
            if source is not None and source != self._published:
                self._published = source
                self._hand_over(source)
        before, self._seen = self._seen, {}
        for found in list_artifacts(self._output):
            self._seen[found.name] = found.identity
            settled = before.get(found.name) == found.identity or final or not found.may_grow
            if self._known.get(found.name) != found.identity and settled:
                self._known[found.name] = found.identity
                self._hand_over(found)
        return ready

    def _hand_over(self, work: Found | str) -> None:
        """Gives the thread a directory to verify, or a result to publish."""
        self._pending += 1
        self._waiting.put(work)
        if self._pending and self._thread is None:
            self._thread = threading.Thread(target=self._verify, name="verify", daemon=True)
            self._thread.start()

    def _ready(self) -> Iterator[dict[str, Any]]:
        while not self._verified.empty():
            record = self._verified.get()
            self._pending -= 1
            if record is None:
                continue
            if record["kind"] == ADAPTER and record["complete"]:
                self.adapter = record
            yield record

    def _verify(self) -> None:
        while True:
            work = self._waiting.get()
            self._verified.put(self._publish(work) if isinstance(work, str) else self._look(work))
            self._wake()

    def _look(self, found: Found) -> dict[str, Any] | None:
        return verify(self._output, found)

    def _publish(self, source: str) -> dict[str, Any] | None:
        """None when it is published: it is then found as any other; else why it could not be."""
        try:
            publish(self._output, source)
        except (OSError, ValueError) as error:
            nothing = {"files": [], "bytes": 0, "step": None, "manifest_id": source}
            told = {"name": ADAPTER, "kind": "adapter", "complete": False, **nothing}
            return {**told, "detail": f"{type(error).__name__}: {error}"}
        return None
