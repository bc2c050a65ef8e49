"""What a training's Python lacks, and what is asked of pip so that it does not lack it.

The environment of our own stands on the image's Python and sees everything that it has. What it
holds beside that is named by its key, so that the next job with the same wishes takes it as it is.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from costguard.core.contact import version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# They fit the image's driver and each other; another build, and nothing sees the card.
PINNED = ("torch", "torchvision", "torchaudio")
# Words of pip's, as of version 20.3 and later.
CONFLICT = "The conflict is caused by:"
DEPENDS = re.compile(r" depends on | requested ")
HELP = "for help visit"


def lacking(
    found: Mapping[str, str | None], needs: Iterable[str], least: Mapping[str, str]
) -> list[str]:
    """What is missing or older than its least version, each as a person reads it.

    `found`: versions by module, "" where unknown (taken for new enough), None where missing.
    """
    lacks = []
    for name in dict.fromkeys([*needs, *least]):
        version, wanted = found.get(name), least.get(name, "")
        if version is None:
            lacks.append(name)
        elif version and version_of(version) < version_of(wanted):
            lacks.append(f"{name} (has {version}, needs {wanted} or newer)")
    return lacks


def pins(found: Mapping[str, str | None]) -> list[str]:
    """Lines of a constraints file: exactly the torch and its companions that are there."""
    return [f"{name}=={found[name]}" for name in PINNED if found.get(name)]


def environment_key(
    python: str, version: str, constraints: Sequence[str], requirements: Sequence[str]
) -> str:
    """The name of the environment that holds these requirements on that Python, 16 hex digits."""
    parts = [python, version, *constraints, "", *sorted(set(requirements))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def why_pip_failed(lines: Sequence[str]) -> str:
    """The sentence that says it best: pip's own errors with what conflicts, else its last words."""
    stripped = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in stripped if line.startswith("ERROR:")]
    said = [line for line in errors if HELP not in line] or stripped[-2:]
    if CONFLICT in stripped:
        said += [line for line in stripped[stripped.index(CONFLICT) + 1 :] if DEPENDS.search(line)]
    return "; ".join(said)[:800] or "pip said nothing"
