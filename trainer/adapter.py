"""An adapter on the disk, and what its training said of itself: for those who load it afterwards.

An adapter answers as it was trained only under the same system prompt and on the same base; both
are written down beside it, so that nobody has to remember them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint import ADAPTER_DIRECTORY, ADAPTER_FILES, Checkpoints
from trainer.exits import USAGE, Refusal
from trainer.publish import MANIFEST, DamagedError, read_directory
from trainer.state import PROGRESS
from trainer.template import QWEN_DEFAULT_SYSTEM


@dataclass(frozen=True)
class Adapter:
    """A directory with a LoRA adapter. `semantics` is empty where nothing is known of its run."""

    path: Path
    semantics: dict[str, Any] = field(default_factory=dict)

    @property
    def default_system(self) -> str:
        """The system prompt of the rows that had none."""
        return str(self.semantics.get("default_system", QWEN_DEFAULT_SYSTEM))

    @property
    def quantised(self) -> bool | None:
        """Whether it was trained on a base in NF4; None if that is not known."""
        if "quantization_bit" not in self.semantics:
            return None
        return self.semantics["quantization_bit"] == 4

    @property
    def double_quantization(self) -> bool:
        """Whether that base's constants were quantised too."""
        return bool(self.semantics.get("double_quantization", True))

    def config(self) -> dict[str, Any]:
        """The adapter_config.json of peft; raises Refusal if it is no LoRA."""
        path = self.path / "adapter_config.json"
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise _refusal(self.path, f"adapter_config.json cannot be read: {error}") from error
        if not isinstance(document, dict) or document.get("peft_type") != "LORA":
            raise _refusal(self.path, "it is no LoRA adapter")
        return document


def find_adapter(text: str) -> Adapter:
    """The adapter meant by `--adapter_name_or_path`: its directory, or a run's --output_dir.

    Of a run it is `adapter/`, or what the newest whole checkpoint holds. Raises Refusal.
    """
    path = Path(text)
    if "," in text and not path.exists():
        raise _refusal(path, "more than one adapter is not offered")
    if (path / "adapter_config.json").is_file():
        return Adapter(path, _semantics(path))
    if (path / ADAPTER_DIRECTORY / "adapter_config.json").is_file():
        return Adapter(path / ADAPTER_DIRECTORY, _semantics(path / ADAPTER_DIRECTORY))
    checkpoint = Checkpoints(path, keep=2).newest_valid() if path.is_dir() else None
    if checkpoint is None:
        raise _refusal(path, "there is no adapter")
    return Adapter(checkpoint.path, _semantics(checkpoint.path))


def _semantics(path: Path) -> dict[str, Any]:
    """What the run wrote down, in a manifest or a checkpoint's progress.

    Raises Refusal if the directory has a manifest and is not what that says.
    """
    if not (path / MANIFEST).is_file():
        return {}
    try:
        files, manifest = read_directory(path)
    except DamagedError as error:
        raise _refusal(path, f"it is damaged: {error}") from error
    missing = [name for name in ADAPTER_FILES if name not in files]
    if missing:
        raise _refusal(path, f"{missing[0]} is not in its manifest")
    told = manifest.get("semantics")
    if told is None and PROGRESS in files:
        told = json.loads(files[PROGRESS]).get("semantics")
    return told if isinstance(told, dict) else {}


def _refusal(path: Path, what: str) -> Refusal:
    hint = "give a directory with adapter_config.json, or the --output_dir of a run"
    return Refusal(USAGE, what, where=str(path), hint=hint)
