from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from trainer.exits import Refusal
from trainer.tensorfile import ShardWriter, TensorFiles

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


def tensors() -> dict[str, Any]:
    import torch

    return {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.ones(5, dtype=torch.bfloat16) / 3,
        "c": torch.tensor([[0, 255]], dtype=torch.uint8),
        "d": torch.tensor(7, dtype=torch.int64),
        "e": torch.empty(0, 4),
        "f": torch.arange(12, dtype=torch.float32).reshape(3, 4).T,
    }


def write(directory: Path, shard_bytes: int) -> list[str]:
    with ShardWriter(directory, shard_bytes) as writer:
        for name, tensor in tensors().items():
            writer.add(name, tensor)
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("shard_bytes", [1, 40, 10**9])
def test_what_was_written_is_read_by_safetensors_and_here(tmp_path: Path, shard_bytes: int) -> None:
    """Whatever the size of a shard: the same tensors, bit for bit, shape for shape."""
    import safetensors.torch
    import torch

    write(tmp_path, shard_bytes)
    theirs: dict[str, Any] = {}
    for path in tmp_path.glob("*.safetensors"):
        theirs |= safetensors.torch.load_file(path)
    ours = TensorFiles(tmp_path)
    assert theirs.keys() == tensors().keys() == set(ours.names())
    for name, tensor in tensors().items():
        for found in (theirs[name], ours.read(name)):
            assert found.dtype == tensor.dtype
            assert found.shape == tensor.shape
            assert torch.equal(found, tensor)


def test_one_shard_needs_no_index(tmp_path: Path) -> None:
    """And several have the one that transformers reads."""
    assert write(tmp_path, 10**9) == ["model.safetensors"]
    (tmp_path / "many").mkdir()
    names = write(tmp_path / "many", 40)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_bytes())
    assert set(index["weight_map"]) == tensors().keys()
    assert set(index["weight_map"].values()) == {n for n in names if n.endswith(".safetensors")}
    assert index["metadata"]["total_size"] == 24 + 10 + 2 + 8 + 48


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\1",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 5) + b"{nope",
        struct.pack("<Q", 64)
        + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64),
        struct.pack("<Q", 64) + b'{"a":{"dtype":"F8","shape":[0],"data_offsets":[0,0]}}'.ljust(64),
        struct.pack("<Q", 15) + b'{"a":{"dtype":1}',
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, content: bytes) -> None:
    """Cut short, or something else under that name: told with the file."""
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(Refusal, match="not a whole safetensors file") as caught:
        TensorFiles(tmp_path)
    assert caught.value.where == str(tmp_path / "model.safetensors")


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    """With what to give instead."""
    with pytest.raises(Refusal, match=r"no \.safetensors"):
        TensorFiles(tmp_path)
