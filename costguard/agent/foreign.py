"""Checkpoints that bear no manifest of ours: those of transformers' Trainer, as LLaMA-Factory's.

Complete is one that can be resumed from: `trainer_state.json` parses and names the step, the
optimizer's and the random generators' states are there and whole, and every safetensors file is
as long as its header says. Seen in practice: a full disk left 72 of 965 MB, without the optimizer.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

from costguard.agent.digest import sha256_of

STATE = "trainer_state.json"
LISTING = "listing:"
STATE_BYTES = 64 * 1024 * 1024
HEADER_BYTES = 100 * 1024 * 1024  # the format's own bound
OPTIMIZER = re.compile(r"optimizer\.(pt|bin)|global_step\d+")  # a directory with DeepSpeed
RNG = re.compile(r"rng_state(_\d+)?\.pth")
WEIGHTS = re.compile(r".*\.safetensors")
ZIPPED = re.compile(r".*\.(pt|pth|bin)")


class TornError(ValueError):
    """The checkpoint cannot be resumed from; the text says what is wrong with it."""


def identity(directory: Path) -> str | None:
    """Changes whenever a file of the checkpoint does; None where it has no trainer's state yet.

    The state is written last, so a checkpoint without one is still being written, or torn.
    """
    if not (directory / STATE).exists():
        return None
    seen = sorted(
        (str(path.relative_to(directory)), status.st_size, status.st_mtime_ns)
        for path, status in _files(directory)
    )
    # CRC-32 is enough to tell one listing of a directory from the next.
    return f"{LISTING}{len(seen)}:{zlib.crc32(repr(seen).encode()):08x}"


def verify(directory: Path, step: int | None) -> list[dict[str, Any]]:
    """Its files with size and sha256; raises TornError where it cannot be resumed from."""
    return [
        {
            "path": path.relative_to(directory).as_posix(),
            "size": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in check(directory, step)
    ]


def check(directory: Path, step: int | None) -> list[Path]:
    """Its files; raises TornError where it cannot be resumed from, OSError where one is gone."""
    told = _read_state(directory / STATE)
    if step is not None and told != step:
        raise TornError(f"{STATE} is of step {told}, the directory's name says {step}")
    files = sorted(path for path, _ in _files(directory))
    names = {path.relative_to(directory).parts[0] for path in files}
    for pattern, what in ((OPTIMIZER, "optimizer's state"), (RNG, "random generators' state")):
        if not any(pattern.fullmatch(name) for name in names):
            raise TornError(f"the {what} is missing")
    if not any(WEIGHTS.fullmatch(name) for name in names):
        raise TornError("no weights (safetensors) are there")
    for path in files:
        if WEIGHTS.fullmatch(path.name):
            check_safetensors(path)
        elif ZIPPED.fullmatch(path.name):
            check_torch_file(path)
    return files


def check_safetensors(path: Path) -> None:
    """Raises TornError unless the file is as long as its header says.

    Format: 8 bytes little-endian length of the header, the header as JSON with each tensor's
    `data_offsets`, then the data (huggingface/safetensors, README).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_BYTES):
            raise TornError(f"{path.name} is cut off in its header")
        try:
            header = json.loads(file.read(length))
            ends = [
                entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
            ]
            wanted = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise TornError(f"{path.name} has no readable header") from error
    if size != wanted:
        raise TornError(f"{path.name} is {size} bytes long, its header says {wanted}")


def check_torch_file(path: Path) -> None:
    """Raises TornError for a file of torch.save that is cut off or damaged.

    They are zip archives, whose table of contents is written last; each entry has its checksum.
    Files of another kind (older pickles, training_args.bin of some versions) must not be empty.
    """
    if path.stat().st_size == 0:
        raise TornError(f"{path.name} is empty")
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        return
    zipfile = importlib.import_module("zipfile")  # late: most runs have manifests of ours
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise TornError(f"{path.name} is cut off: {error}") from error
    if bad is not None:
        raise TornError(f"{path.name} is damaged in {bad}")


def _read_state(path: Path) -> int:
    try:
        with path.open("rb") as file:
            state = json.loads(file.read(STATE_BYTES))
        step = state["global_step"]
    except (ValueError, KeyError, TypeError) as error:
        raise TornError(f"{path.name} cannot be read") from error
    if isinstance(step, bool) or not isinstance(step, int):
        raise TornError(f"{path.name} names no step")
    return step


def _files(directory: Path) -> list[tuple[Path, os.stat_result]]:
    """The regular files below, with their figures; what vanishes meanwhile is left out."""
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            try:
                status = path.lstat()
            except OSError:
                continue
            if not path.is_symlink():
                found.append((path, status))
    return found
