"""safetensors files read and written one tensor at a time, so that 15 GB pass through 2 GB.

The format: the length of a JSON header in 8 bytes, the header (it may end in spaces), the data end
to end. `safetensors` itself maps whole files or holds a whole shard; here nothing is held but the
tensor at hand. Source: the format's description in the README of huggingface/safetensors.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from trainer.exits import USAGE, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64",
          "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
          "BOOL": "bool"}  # fmt: skip
HEADER_BYTES = 2**20
"""Reserved for a shard's header, which is written last; 7B in NF4 needs a fifth of it."""
WRITE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


class TensorFiles:
    """The tensors of all safetensors files in a directory, by name."""

    def __init__(self, directory: Path) -> None:
        self.places: dict[str, Place] = {}
        for file in sorted(directory.glob("*.safetensors")):
            self.places.update(_places(file))
        if not self.places:
            hint = "give the directory that holds config.json and the weights"
            raise Refusal(USAGE, "no .safetensors in it", where=str(directory), hint=hint)

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def names(self) -> list[str]:
        """All names, in the order of the files."""
        return list(self.places)

    def read(self, name: str) -> Any:
        """The tensor, in memory of its own."""
        import torch

        place = self.places[name]
        data = bytearray(place.size)
        with place.file.open("rb") as stream:
            stream.seek(place.begin)
            if stream.readinto(data) != place.size:
                raise Refusal(USAGE, "the file is cut short", where=str(place.file))
        dtype = getattr(torch, DTYPES[place.dtype])
        if not data:
            return torch.empty(place.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).reshape(place.shape)


@final
class ShardWriter:
    """Writes tensors into `model-0000N-of-0000M.safetensors`, and the index if there are several.

    Nothing bears its final name before the `with` block ends, and then all bytes are on the disk;
    if it ends by an error, what was written keeps its passing names.
    """

    def __init__(self, directory: Path, shard_bytes: int) -> None:
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._shards: list[Path] = []
        self._where: dict[str, int] = {}
        self._stream: Any = None
        self._header: dict[str, Any] = {}
        self._size = 0
        self._total = 0

    def add(self, name: str, tensor: Any) -> None:
        """Write one tensor; a shard that would grow over its size is closed before it."""
        import torch

        plain = tensor.detach().cpu().contiguous()
        size = plain.numel() * plain.element_size()
        full = self._size and self._size + size > self._shard_bytes
        if full or len(json.dumps(self._header)) > HEADER_BYTES - 4096:
            self._close()
        if self._stream is None:
            self._open()
        dtype = next(key for key, value in DTYPES.items() if getattr(torch, value) == plain.dtype)
        offsets = [self._size, self._size + size]
        self._header[name] = {"dtype": dtype, "shape": list(plain.shape), "data_offsets": offsets}
        if size:
            view = memoryview(plain.reshape(-1).view(torch.uint8).numpy())
            for start in range(0, size, WRITE_BYTES):
                self._stream.write(view[start : start + WRITE_BYTES])
        self._where[name] = len(self._shards) - 1
        self._size += size
        self._total += size

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()
        elif self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def _finish(self) -> None:
        """Close the last shard, give all their names, write the index."""
        self._close()
        count = len(self._shards)
        names = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        names = ["model.safetensors"] if count == 1 else names
        for path, name in zip(self._shards, names, strict=True):
            path.rename(self._directory / name)
        if count > 1:
            weight_map = {name: names[shard] for name, shard in sorted(self._where.items())}
            document = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            text = json.dumps(document, indent=2) + "\n"
            (self._directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    def _open(self) -> None:
        path = self._directory / f"shard-{len(self._shards)}"
        self._shards.append(path)
        self._stream = path.open("xb")
        self._stream.write(b" " * (8 + HEADER_BYTES))
        self._header, self._size = {"__metadata__": {"format": "pt"}}, 0

    def _close(self) -> None:
        if self._stream is None:
            return
        text = json.dumps(self._header).encode()
        self._stream.seek(0)
        self._stream.write(struct.pack("<Q", HEADER_BYTES) + text.ljust(HEADER_BYTES))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream, self._header, self._size = None, {}, 0


def _places(file: Path) -> Iterator[tuple[str, Place]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            size = os.fstat(stream.fileno()).st_size
            header: Any = json.loads(stream.read(length)) if 8 + length <= size else None
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, _place(file, entry, 8 + length, size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        hint = "fetch the model anew"
        what = f"not a whole safetensors file: {error}"
        raise Refusal(USAGE, what, where=str(file), hint=hint) from error


def _place(file: Path, entry: dict[str, Any], data: int, size: int) -> Place:
    begin, end = entry["data_offsets"]
    if data + end > size:
        raise ValueError("it is cut short")
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"a tensor in it is {entry['dtype']}")
    return Place(file, entry["dtype"], tuple(entry["shape"]), data + begin, end - begin)
