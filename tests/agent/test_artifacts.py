from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent import artifacts
from costguard.agent.artifacts import ArtifactWatcher
from costguard.agent.digest import sha256_of
from tests.agent.harness import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def entry(path: str, content: bytes = b"weights", **other: Any) -> dict[str, Any]:
    """A manifest's entry for `content`."""
    digest = hashlib.sha256(content).hexdigest()
    return {"path": path, "size": len(content), "sha256": digest, **other}


def make(output: Path, name: str, entries: list[Any], files: dict[str, bytes]) -> Path:
    """An artifact directory with a manifest of these entries."""
    directory = output / name
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    (directory / "manifest.json").write_text(json.dumps({"step": 7, "files": entries}))
    return directory


def settle(watcher: ArtifactWatcher) -> list[dict[str, Any]]:
    """Polls until everything seen is verified; returns what was told."""
    told = watcher.poll()

    def look() -> bool:
        told.extend(watcher.poll())
        return watcher.idle

    wait_until(look, "the verification")
    return told


def test_a_complete_checkpoint_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With step, files and the manifest itself; and it is hashed once however often polled."""
    make(tmp_path, "checkpoint-7", [entry("a/b.bin")], {"a/b.bin": b"weights"})
    hashed: list[Path] = []
    real = sha256_of

    def counted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(artifacts, "sha256_of", counted)
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None)
    (told,) = settle(watcher)
    assert (told["name"], told["kind"], told["step"]) == ("checkpoint-7", "checkpoint", 7)
    assert told["complete"] is True
    assert [file["path"] for file in told["files"]] == ["a/b.bin", "manifest.json"]
    assert told["bytes"] == sum(file["size"] for file in told["files"])
    assert settle(watcher) == []
    assert len(hashed) == 1


def test_the_latest_complete_adapter_is_the_result(tmp_path: Path) -> None:
    """An adapter written anew replaces the one before."""
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None)
    make(tmp_path, "adapter", [entry("x")], {"x": b"weights"})
    settle(watcher)
    shutil.rmtree(tmp_path / "adapter")
    make(tmp_path, "adapter", [entry("x", b"better")], {"x": b"better"})
    settle(watcher)
    assert watcher.adapter is not None
    assert watcher.adapter["files"][0]["size"] == len(b"better")


def test_llamafactory_style_entries_are_understood(tmp_path: Path) -> None:
    """`name` stands for `path`."""
    named = entry("x")
    named["name"] = named.pop("path")
    make(tmp_path, "adapter", [named], {"x": b"weights"})
    (told,) = settle(ArtifactWatcher(tmp_path, {}, lambda: None))
    assert told["complete"] is True


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([entry("x", b"other!!")], "another sha256"),
        ([entry("x", b"longer than it is")], "bytes long"),
        ([entry("y")], "missing"),
        ([entry("../x")], "no path inside"),
        ([entry("/etc/passwd")], "no path inside"),
        ([entry("x", size=True)], "no size"),
        ([entry("x", sha256="ABC")], "no sha256"),
        (["x"], "no object"),
        ([], "names no file"),
    ],
)
def test_a_manifest_that_does_not_check_out_is_incomplete(
    tmp_path: Path, entries: list[Any], says: str
) -> None:
    """And it is said in what; it never becomes the result."""
    make(tmp_path, "adapter", entries, {"x": b"weights"})
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None)
    (told,) = settle(watcher)
    assert told["complete"] is False
    assert says in told["detail"]
    assert watcher.adapter is None


def test_directories_without_a_manifest_or_of_other_names_are_left_alone(tmp_path: Path) -> None:
    """An unfinished checkpoint is none yet."""
    (tmp_path / "checkpoint-3").mkdir()
    make(tmp_path, ".checkpoint-4.tmp", [entry("x")], {"x": b"weights"})
    make(tmp_path, "checkpoint-x", [entry("x")], {"x": b"weights"})
    assert settle(ArtifactWatcher(tmp_path, {}, lambda: None)) == []


def test_what_lay_there_before_is_not_told(tmp_path: Path) -> None:
    """Until it is written anew, be it with the same bytes."""
    make(tmp_path, "adapter", [entry("x")], {"x": b"weights"})
    before = {found.name: found.identity for found in artifacts.list_artifacts(tmp_path)}
    watcher = ArtifactWatcher(tmp_path, before, lambda: None)
    assert settle(watcher) == []
    (tmp_path / "adapter").rename(tmp_path / "older")
    make(tmp_path, "adapter", [entry("x")], {"x": b"weights"})
    assert len(settle(watcher)) == 1


def test_a_checkpoint_that_was_rotated_away_is_not_told(tmp_path: Path) -> None:
    """It went between being seen and being read."""
    make(tmp_path, "checkpoint-1", [entry("x")], {"x": b"weights"})
    (found,) = artifacts.list_artifacts(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-1")
    assert artifacts.verify(tmp_path, found) is None
