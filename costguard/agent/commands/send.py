"""`send`: files as one stream."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from costguard.agent.answers import EXIT_REFUSED

if TYPE_CHECKING:
    import argparse

SEND_BYTES = 1024 * 1024


def run(_arguments: argparse.Namespace) -> int:
    """Writes files to standard output, from the offsets that a JSON list on stdin asks for.

    Each as one JSON line with `path` and `bytes`, then that many bytes; or with `error` and no
    bytes. One stream over one channel reaches what the line carries, where SFTP's separate
    reads wait for each other.
    """
    out = sys.stdout.buffer
    whole = all(_send_one(out, path, offset) for path, offset in json.load(sys.stdin))
    out.flush()
    return 0 if whole else EXIT_REFUSED


def _send_one(out: BinaryIO, path: str, offset: int) -> bool:
    """False when the file could not be read to its end: then the stream cannot go on."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115  closed below, after its header is out
    except OSError as error:
        out.write(json.dumps({"path": path, "error": str(error)}).encode() + b"\n")
        return True
    with file:
        left = max(0, os.fstat(file.fileno()).st_size - offset)
        out.write(json.dumps({"path": path, "bytes": left}).encode() + b"\n")
        file.seek(offset)
        while left and (block := file.read(min(left, SEND_BYTES))):
            out.write(block)
            left -= len(block)
    return left == 0
