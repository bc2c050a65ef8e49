"""Making one artifact of what LLaMA-Factory leaves in its output directory: `adapter/`.

It writes the adapter beside its checkpoints, logs and plots. Once its run is through (the trainer's
state is saved after the model), the adapter's files are linked into a directory of their own, with
a manifest, renamed into place: then it travels home as every other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

from costguard.agent import foreign
from costguard.agent.digest import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ADAPTER = "adapter"
MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
BELONGS = re.compile(
    r"adapter_(model|config)\..*|tokenizer.*|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\..*|merges\.txt|chat_template\..*|README\.md"
)


def source_of(output: Path) -> str | None:
    """What is to be published, by inode and time; None while there is nothing that is through."""
    try:
        weights, state = (output / WEIGHTS).stat(), (output / foreign.STATE).stat()
        (output / CONFIG).stat()
    except OSError:
        return None
    if state.st_mtime_ns < weights.st_mtime_ns:
        return None  # the state of a run before this one
    return f"{weights.st_ino}:{weights.st_mtime_ns}:{weights.st_size}"


def published(output: Path) -> str | None:
    """What the present `adapter/` was made of, where we made it."""
    try:
        manifest = json.loads((output / ADAPTER / MANIFEST).read_bytes())
        source = manifest["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return source if isinstance(source, str) else None


def publish(output: Path, source: str) -> None:
    """Makes `adapter/`, whole or not at all. Raises OSError, foreign.TornError."""
    foreign.check_safetensors(output / WEIGHTS)
    step = json.loads((output / foreign.STATE).read_bytes()).get("global_step")
    hidden = output / f".{ADAPTER}.tmp"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    files = [path for path in sorted(output.iterdir()) if BELONGS.fullmatch(path.name)]
    entries = list(_taken(files, hidden))
    manifest = {"step": step, "source": source, "files": entries}
    (hidden / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    older = output / f".{ADAPTER}.older"
    shutil.rmtree(older, ignore_errors=True)
    if (output / ADAPTER).exists():
        (output / ADAPTER).rename(older)
    hidden.rename(output / ADAPTER)
    shutil.rmtree(older, ignore_errors=True)


def _taken(files: Iterable[Path], target: Path) -> Iterable[dict[str, object]]:
    for path in files:
        if path.is_symlink() or not path.is_file():
            continue
        copy = target / path.name
        if path.name == WEIGHTS:
            try:
                os.link(path, copy)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, copy)
        else:  # LLaMA-Factory goes on to write its README in place: a link would change with it
            shutil.copyfile(path, copy)
        yield {"path": path.name, "size": copy.stat().st_size, "sha256": sha256_of(copy)}
