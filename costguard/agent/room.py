"""What lies on the disk already of what a job would put there: its model, its checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent.gpu import MIB
from costguard.agent.launch import CACHES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from costguard.core.contact import Needs


def room(needs: Needs, env: Mapping[str, str], directory: Path) -> dict[str, Any]:
    """MiB of the model and of checkpoints that are there already, begun downloads with them.

    `models_free_mib` is there only where models are kept on another disk than the job's.
    """
    found: dict[str, Any] = {}
    if needs.saves is not None:
        found["saves_mib"] = tree_bytes(directory / needs.saves) // MIB
    root = None if needs.model is None else _cache(needs, env, directory)
    if needs.model is None or root is None:
        return found
    found["model_mib"] = sum(tree_bytes(path) for path in _folders(root, needs.model)) // MIB
    stands = _standing(root)
    if stands.stat().st_dev != directory.stat().st_dev:
        found["models_free_mib"] = shutil.disk_usage(stands).free // MIB
    return found


def tree_bytes(path: Path) -> int:
    """The bytes of the files below a folder, links not followed; 0 where there is none."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:
                continue  # it went while we looked
    return total


def _cache(needs: Needs, env: Mapping[str, str], directory: Path) -> Path | None:
    if needs.model_dir is not None:
        return directory / Path(needs.model_dir).expanduser()
    for key, _, usual in CACHES:
        if key == needs.model_cache:
            return directory / Path(env.get(key) or usual).expanduser()
    return None


def _folders(root: Path, model: str) -> Iterator[Path]:
    """Where our trainer, Hugging Face and ModelScope keep a model below their cache."""
    owner, _, name = model.rpartition("/")
    flat = model.replace("/", "--")
    plain = Path(owner, name)
    escaped = Path(owner, name.replace(".", "___"))  # as ModelScope writes it
    yield root / flat
    yield root / f"models--{flat}" / "blobs"
    yield root / "hub" / f"models--{flat}" / "blobs"
    for base in (root, root / "models", root / "hub", root / "hub" / "models"):
        for each in dict.fromkeys((plain, escaped)):
            for there in (base / each, base / "._____temp" / each):
                if not there.is_symlink():  # the plain name may lead to the other
                    yield there


def _standing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path, *path.resolve().parents) if each.exists())
