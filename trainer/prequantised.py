"""A copy of the base in NF4 beside the model, so that the next start reads 5.5 GB and not 15.

It is written once, from the weights that were just quantised for training, so it is the same base
to the bit; it is used as long as the original is the one that it was made from.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.download import is_whole, read_marker, write_marker
from trainer.progress import tell, warn
from trainer.publish import PARTIAL_PREFIX
from trainer.tensorfile import ShardWriter

if TYPE_CHECKING:
    from trainer.config import Config

WORTH_BYTES = 2**30
"""Of a smaller model the original is read as fast."""
SHARD_BYTES = 5 * 10**9
SPARE_BYTES = 5 * 2**30
"""Left free on the disk for checkpoints and logs: they come first."""


def find(config: Config, dtype: Any, identity: str) -> Path | None:
    """The copy of `config`'s model, whole and made from the same original; None without one."""
    place = _place(config, dtype)
    if place is None or not is_whole(place) or read_marker(place).get("original") != identity:
        return None
    return place


def keep(
    base: Any, config: Config, dtype: Any, identity: str, worth_bytes: int = WORTH_BYTES
) -> Path | None:
    """Write the copy, if the model is large enough to be worth it and the disk has room.

    Telling why not is all that a failure does: the run needs no copy.
    """
    place = _place(config, dtype)
    if place is None or _weight_bytes(Path(config.model_name_or_path)) < worth_bytes:
        return None
    partial = place.parent / f"{PARTIAL_PREFIX}{place.name}-{os.getpid()}"
    size = sum(value.numel() * value.element_size() for value in base.state_dict().values())
    try:
        free = shutil.disk_usage(place.parent).free
        if free < size + SPARE_BYTES:
            warn(f"no copy in NF4 is kept: {free / 1e9:.1f} GB are free for {size / 1e9:.1f} GB")
            return None
        partial.mkdir()
        with ShardWriter(partial, SHARD_BYTES) as writer:
            for name, value in base.state_dict().items():
                writer.add(name, value)
        base.config.save_pretrained(partial)
        entries = [_entry(path) for path in sorted(partial.iterdir())]
        write_marker(partial, {"original": identity}, entries)
        if place.exists():
            shutil.rmtree(place)
        partial.rename(place)
    except OSError as error:
        warn(f"no copy in NF4 is kept: {error.strerror or error}")
        shutil.rmtree(partial, ignore_errors=True)
        return None
    tell(f"the base in NF4 is kept for the next start: {place}, {size / 1e9:.1f} GB")
    return place


def _place(config: Config, dtype: Any) -> Path | None:
    """Where the copy belongs. Its name bears all that decides what is in it."""
    model = Path(config.model_name_or_path)
    if config.quantization_bit != 4 or not model.is_dir() or _is_quantised(model):
        return None
    constants = "double" if config.double_quantization else "single"
    kind = f"nf4-{constants}-{str(dtype).removeprefix('torch.')}"
    return model.resolve().parent / f"{model.resolve().name}.{kind}"


def _is_quantised(model: Path) -> bool:
    """Whether the model's own files are in 4 bits: a copy would be the same again."""
    return "quantization_config" in json.loads((model / "config.json").read_bytes())


def _weight_bytes(model: Path) -> int:
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))


def _entry(path: Path) -> dict[str, Any]:
    state = path.stat()
    return {"path": path.name, "size": state.st_size, "mtime_ns": state.st_mtime_ns}
