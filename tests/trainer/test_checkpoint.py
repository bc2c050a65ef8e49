from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trainer.checkpoint import Checkpoints
from trainer.publish import read_directory

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "adapter_model.safetensors": b"weights",
    "adapter_config.json": b"{}",
    "optimizer.pt": b"moments",
}


def files_of(step: int) -> dict[str, bytes]:
    return {**FILES, "optimizer.pt": str(step).encode()}


def saved(output_dir: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(output_dir, keep=keep)
    for step in steps:
        checkpoints.save(step, files_of(step))
    return checkpoints


def steps_in(output_dir: Path) -> list[int]:
    return [step for step, _path in Checkpoints(output_dir, keep=9).steps()]


def test_there_is_no_newest_where_there_is_none(tmp_path: Path) -> None:
    """An empty directory has no checkpoint, and nothing damaged."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest_valid() is None
    assert checkpoints.damaged == {}


def test_the_newest_is_by_step_not_by_name(tmp_path: Path) -> None:
    """checkpoint-100 comes after checkpoint-20."""
    newest = saved(tmp_path, 20, 100).newest_valid()
    assert newest is not None
    assert (newest.step, newest.files) == (100, files_of(100))


def test_a_damaged_one_is_passed_over_for_an_older(tmp_path: Path) -> None:
    """The fall back says which one was damaged and how."""
    saved(tmp_path, 10, 20, 30)
    (tmp_path / "checkpoint-30" / "optimizer.pt").write_bytes(b"3")
    (tmp_path / "checkpoint-20" / "manifest.json").unlink()
    checkpoints = Checkpoints(tmp_path, keep=9)
    newest = checkpoints.newest_valid()
    assert newest is not None
    assert newest.step == 10
    texts = list(checkpoints.damaged.values())
    assert texts[0].startswith("checkpoint-30: optimizer.pt has 1 bytes")
    assert texts[1].startswith("checkpoint-20: manifest.json is missing")


@pytest.mark.parametrize(("keep", "left"), [(1, [30, 40]), (2, [30, 40]), (3, [20, 30, 40])])
def test_old_ones_go_but_two_stay(tmp_path: Path, keep: int, left: list[int]) -> None:
    """A limit of one still keeps two."""
    saved(tmp_path, 10, 20, 30, 40, keep=keep)
    assert steps_in(tmp_path) == left


def test_a_damaged_one_does_not_count_as_kept(tmp_path: Path) -> None:
    """After a fall back from damaged 30 and 20 to 10, saving 25 keeps 10, the second whole."""
    saved(tmp_path, 10, 20, 30)
    for step in (20, 30):
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").unlink()
    checkpoints = Checkpoints(tmp_path, keep=2)
    newest = checkpoints.newest_valid()
    assert newest is not None
    checkpoints.save(25, files_of(25))
    assert steps_in(tmp_path) == [10, 20, 25, 30]


def test_saving_over_a_damaged_one_moves_it_aside(tmp_path: Path) -> None:
    """The name becomes free, and what bore it is not destroyed."""
    saved(tmp_path, 10)
    (tmp_path / "checkpoint-10" / "optimizer.pt").write_bytes(b"torn")
    saved(tmp_path, 10)
    assert read_directory(tmp_path / "checkpoint-10")[0] == files_of(10)
    assert (tmp_path / "displaced-checkpoint-10-1" / "optimizer.pt").read_bytes() == b"torn"


def test_saving_a_step_that_is_there_changes_nothing(tmp_path: Path) -> None:
    """The same step of the same run is the same state: the one on the disk stays."""
    saved(tmp_path, 10)
    inode = (tmp_path / "checkpoint-10").stat().st_ino
    saved(tmp_path, 10)
    assert (tmp_path / "checkpoint-10").stat().st_ino == inode


def test_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    """Files, and directories that only look like checkpoints, are left alone."""
    (tmp_path / "checkpoint-9").write_text("a file")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7.bak").mkdir()
    saved(tmp_path, 1, 2, 3, keep=2)
    assert steps_in(tmp_path) == [2, 3]
    assert (tmp_path / "checkpoint-7.bak").is_dir()


def test_the_adapter_is_copied_from_its_checkpoint(tmp_path: Path) -> None:
    """`adapter/` holds the adapter's files and a manifest, nothing of the optimizer."""
    path = saved(tmp_path, 10).save_adapter(10)
    files, manifest = read_directory(path)
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (manifest["kind"], manifest["step"]) == ("adapter", 10)


def test_no_adapter_is_made_of_a_damaged_checkpoint(tmp_path: Path) -> None:
    """What cannot be verified is not handed out as the result."""
    checkpoints = saved(tmp_path, 10)
    (tmp_path / "checkpoint-10" / "adapter_model.safetensors").write_bytes(b"Weights")
    with pytest.raises(OSError, match="not whole"):
        checkpoints.save_adapter(10)
    assert not (tmp_path / "adapter").exists()
