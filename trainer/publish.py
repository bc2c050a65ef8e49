"""Directories that are whole or not there: files, then a manifest of their hashes, then the name.

A directory counts only if its `manifest.json` is there and every file in it has the size and the
sha256 that the manifest states. The order of writing makes that true after `kill -9` and after a
power cut at any instruction:

1. a directory with a temporary name beside the target;
2. each file, written and fsynced;
3. the manifest, written and fsynced, so that it never speaks of bytes that are not on the disk;
4. fsync of that directory, so that the names are there before the directory is;
5. rename to the target, whose name must be free;
6. fsync of the parent, so that the rename itself survives.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trainer.disk import Disk

MANIFEST = "manifest.json"
SCHEMA = "costguard.manifest/1"
PARTIAL_PREFIX = ".partial-"
DISPLACED_PREFIX = "displaced-"


class DamagedError(Exception):
    """The directory is not what its manifest says, or has none; the text says what is wrong."""


def publish_directory(
    disk: Disk,
    target: Path,
    files: Mapping[str, bytes],
    facts: Mapping[str, Any],
    *,
    displace: bool = False,
) -> None:
    """Guarantee on return that `target` holds `files` and their manifest, for good.

    `facts` go into the manifest. A directory that bears the name already is moved aside if
    `displace` (it is never removed: it may be another tool's); otherwise FileExistsError. Any
    OSError leaves the older `target` as it was, and what was written is taken away again.
    """
    partial = target.parent / f"{PARTIAL_PREFIX}{target.name}-{os.getpid()}"
    disk.remove_tree(partial)
    try:
        disk.make_directory(partial)
        for name, data in files.items():
            disk.write_file(partial / name, data)
        disk.write_file(partial / MANIFEST, _manifest(files, facts))
        disk.sync_directory(partial)
        if target.exists():
            if not displace:
                raise FileExistsError(f"{target} is there already")
            set_aside(disk, target)
        disk.rename(partial, target)
    except OSError:
        disk.remove_tree(partial)
        raise
    disk.sync_directory(target.parent)


def set_aside(disk: Disk, target: Path) -> Path:
    """Give the directory `target` a free name beside it, which is returned."""
    free = _free_name(target)
    disk.rename(target, free)
    return free


def sweep(disk: Disk, parent: Path) -> None:
    """Remove what an interrupted save left in `parent`."""
    for leftover in sorted(parent.glob(f"{PARTIAL_PREFIX}*")):
        disk.remove_tree(leftover)


def read_directory(directory: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files and the manifest of `directory`, every byte checked; raises DamagedError.

    The bytes are returned, not the paths, so that what was checked is what gets used.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        entries = [(str(e["name"]), int(e["size"]), str(e["sha256"])) for e in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{MANIFEST} is missing or cannot be read ({error})") from error
    files: dict[str, bytes] = {}
    for name, size, sha256 in entries:
        try:
            data = (directory / name).read_bytes()
        except OSError as error:
            raise DamagedError(f"{name} cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise DamagedError(f"{name} has {len(data)} bytes, its manifest says {size}")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedError(f"{name} does not have the sha256 of its manifest")
        files[name] = data
    return files, manifest


def _free_name(target: Path) -> Path:
    for number in itertools.count(1):
        candidate = target.parent / f"{DISPLACED_PREFIX}{target.name}-{number}"
        if not candidate.exists():
            return candidate
    raise AssertionError("count() does not end")


def _manifest(files: Mapping[str, bytes], facts: Mapping[str, Any]) -> bytes:
    entries = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(files.items())
    ]
    document = {"schema": SCHEMA, **facts, "files": entries}
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"
