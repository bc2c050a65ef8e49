"""The sha256 of a file, as manifests have it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 1024 * 1024


def sha256_of(path: Path, first_bytes: int | None = None) -> str:
    """The hex sha256 of a file's content, or of its first bytes; raises OSError."""
    digest = hashlib.sha256()
    left = path.stat().st_size if first_bytes is None else first_bytes
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
