"""Checkpoints of one output directory: save, find the newest valid one, take away old ones.

This module knows files only; what is in them is `state.py`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.disk import Disk
from trainer.publish import DamagedError, publish_directory, read_directory, set_aside, sweep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEPT_AT_LEAST = 2  # one may be damaged later, by the disk or by a person
ADAPTER_DIRECTORY = "adapter"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte has been checked."""

    step: int
    path: Path
    files: Mapping[str, bytes]

    def as_json(self) -> dict[str, Any]:
        """What `status.json` says of it."""
        return {"step": self.step, "path": self.path.name}


class Checkpoints:
    """The `checkpoint-N` directories under `output_dir`; N is the number of steps taken."""

    def __init__(self, output_dir: Path, *, keep: int, disk: Disk | None = None) -> None:
        self.output_dir = output_dir
        self.keep = max(keep, KEPT_AT_LEAST)
        self.best_step: int | None = None
        """Of the checkpoint with the best held-out loss: it is never removed."""
        self.disk = disk or Disk()
        self.damaged: dict[Path, str] = {}

    def save(self, step: int, files: Mapping[str, bytes]) -> Checkpoint:
        """The checkpoint of `step`, on the disk for good; raises OSError.

        Older ones go only after the new one has been read back and found whole. One of the same
        step is left as it is if it is whole: the same step of the same run is the same state.
        """
        target = self.output_dir / f"checkpoint-{step}"
        present = self._read(target) if target.exists() else None
        if present is None:
            facts = {"kind": "checkpoint", "step": step}
            publish_directory(self.disk, target, files, facts, displace=True)
            self.damaged.pop(target, None)
            present = self._read(target)
            if present is None:
                raise OSError(f"what was saved reads back wrong: {self.damaged[target]}")
        self._remove_old(step)
        return Checkpoint(step, target, present)

    def save_adapter(self, step: int, semantics: Mapping[str, Any] | None = None) -> Path:
        """The path of the final artifact `adapter/`, copied from the checkpoint of `step`.

        `semantics` go into its manifest, so that who loads it knows its base and system prompt.
        Raises OSError, also if that checkpoint is not whole.
        """
        checkpoint = self._read(self.output_dir / f"checkpoint-{step}")
        if checkpoint is None:
            raise OSError(f"checkpoint-{step} is not whole")
        target = self.output_dir / ADAPTER_DIRECTORY
        files = {name: checkpoint[name] for name in ADAPTER_FILES}
        if not target.exists() or self._read(target) != files:
            facts = {"kind": "adapter", "step": step, "semantics": semantics}
            publish_directory(self.disk, target, files, facts, displace=True)
        return target

    def newest_valid(self) -> Checkpoint | None:
        """The newest checkpoint that checks out. Why newer ones do not is left in `damaged`."""
        for step, path in reversed(self.steps()):
            files = self._read(path)
            if files is not None:
                return Checkpoint(step, path, files)
        return None

    def steps(self) -> list[tuple[int, Path]]:
        """(step, path) of each directory that bears a checkpoint's name, oldest first."""
        found = []
        for path in self.output_dir.glob("checkpoint-*"):
            match = _NAME.fullmatch(path.name)
            if match and path.is_dir():
                found.append((int(match[1]), path))
        return sorted(found)

    def put_aside(self) -> list[Path]:
        """Rename all checkpoints out of the way, for a run that begins anew; the new paths."""
        return [set_aside(self.disk, path) for _step, path in self.steps()]

    def sweep(self) -> None:
        """Remove what interrupted saves left behind."""
        sweep(self.disk, self.output_dir)

    def _read(self, path: Path) -> dict[str, bytes] | None:
        try:
            files, _manifest = read_directory(path)
        except DamagedError as error:
            self.damaged[path] = f"{path.name}: {error}"
            return None
        return files

    def _remove_old(self, newest_step: int) -> None:
        """Remove all but the last `keep`; a damaged one neither counts nor is removed."""
        whole = [
            path for step, path in self.steps() if step <= newest_step and path not in self.damaged
        ]
        best = self.output_dir / f"checkpoint-{self.best_step}"
        for path in whole[: -self.keep]:
            if path != best:
                self.disk.remove_tree(path)
