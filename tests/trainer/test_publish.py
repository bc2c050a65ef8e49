"""A save is killed, starved and cut off at every file operation; what remains must be whole."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainer.checkpoint import Checkpoints
from trainer.disk import Disk
from trainer.publish import DamagedError, publish_directory, read_directory

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def files_of(step: int) -> dict[str, bytes]:
    names = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt")
    return {name: f"{name} of {step} ".encode() * 50 for name in names}


def three_saves(output_dir: Path, disk: Disk) -> None:
    """Checkpoints 10 and 20 with a sound disk, then 30 with `disk`, which rotates 10 away."""
    sound = Checkpoints(output_dir, keep=2)
    sound.save(10, files_of(10))
    sound.save(20, files_of(20))
    Checkpoints(output_dir, keep=2, disk=disk).save(30, files_of(30))


def assert_usable(output_dir: Path, *, committed: bool) -> None:
    """The newest valid checkpoint is 20 or 30, exactly 30 once committed, and saving goes on."""
    checkpoints = Checkpoints(output_dir, keep=2)
    newest = checkpoints.newest_valid()
    assert newest is not None
    assert newest.step == 30 if committed else newest.step in {20, 30}
    assert newest.files == files_of(newest.step)
    checkpoints.sweep()
    checkpoints.save(30, files_of(30))
    assert [path.name for path in output_dir.iterdir() if path.name.startswith(".")] == []
    again = Checkpoints(output_dir, keep=2).newest_valid()
    assert again is not None
    assert (again.step, again.files) == (30, files_of(30))


class _Recorder(Disk):
    """Does each operation and keeps it in `done`; calls `before(number, name)` ahead of it."""

    def __init__(self, before: Callable[[int, str], None] = lambda _number, _name: None) -> None:
        self.done: list[tuple[object, ...]] = []
        self.before = before
        self.open: dict[int, Path] = {}

    def note(self, name: str, *details: object) -> None:
        self.before(len(self.done), name)
        self.done.append((name, *details))

    def make_directory(self, path: Path) -> None:
        self.note("make_directory", path)
        super().make_directory(path)

    def create(self, path: Path) -> int:
        self.note("create", path)
        descriptor = super().create(path)
        self.open[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        self.note("write", self.open[descriptor], bytes(data))
        return super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.note("sync", self.open[descriptor])
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self.note("sync_directory", path)
        super().sync_directory(path)

    def rename(self, old: Path, new: Path) -> None:
        self.note("rename", old, new)
        super().rename(old, new)

    def remove_file(self, path: Path) -> None:
        self.note("remove_file", path)
        super().remove_file(path)

    def remove_directory(self, path: Path) -> None:
        self.note("remove_directory", path)
        super().remove_directory(path)


def recorded_save(output_dir: Path) -> list[tuple[object, ...]]:
    recorder = _Recorder()
    three_saves(output_dir, recorder)
    return recorder.done


# The child runs this very file's `three_saves` and dies by SIGKILL at one operation.
KILLED = """
import importlib.util, os, pathlib, signal, sys
spec = importlib.util.spec_from_file_location("saves", {this!r})
saves = importlib.util.module_from_spec(spec)
spec.loader.exec_module(saves)
kill_at, halfway = int(sys.argv[2]), sys.argv[3] == "halfway"

def before(number, name):
    if number == kill_at and not halfway:
        os.kill(os.getpid(), signal.SIGKILL)

class Dying(saves._Recorder):
    def write(self, descriptor, data):
        if len(self.done) == kill_at and halfway:
            os.write(descriptor, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(descriptor, data)

saves.three_saves(pathlib.Path(sys.argv[1]), Dying(before))
"""


def killed_save(output_dir: Path, kill_at: int, when: str) -> None:
    program = KILLED.format(this=__file__)
    arguments = [sys.executable, "-c", program, str(output_dir), str(kill_at), when]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr


def test_kill_minus_nine_at_every_operation_of_a_save(tmp_path: Path) -> None:
    """Before each operation of a save and in the middle of each write: always one that is whole."""
    (tmp_path / "recorded").mkdir()
    operations = recorded_save(tmp_path / "recorded")
    names = [str(operation[0]) for operation in operations]
    assert len(names) >= 20
    renamed = names.index("rename")
    for number, name in enumerate(names):
        for when in ("before", "halfway") if name == "write" else ("before",):
            output_dir = tmp_path / f"{number}-{when}"
            output_dir.mkdir()
            killed_save(output_dir, number, when)
            assert_usable(output_dir, committed=number > renamed)


def test_a_full_disk_at_every_operation_loses_only_that_save(tmp_path: Path) -> None:
    """Whatever operation finds the disk full, the older checkpoint stays and nothing is left."""
    (tmp_path / "recorded").mkdir()
    names = [str(operation[0]) for operation in recorded_save(tmp_path / "recorded")]
    for number, name in enumerate(names[: names.index("rename")]):

        def full(at: int, operation: str, number: int = number) -> None:
            if at == number and not operation.startswith("remove"):
                raise OSError(errno.ENOSPC, "No space left on device")

        output_dir = tmp_path / f"{number}-{name}"
        output_dir.mkdir()
        with pytest.raises(OSError, match="No space left"):
            three_saves(output_dir, _Recorder(full))
        assert sorted(path.name for path in output_dir.iterdir()) == [
            "checkpoint-10",
            "checkpoint-20",
        ]
        assert_usable(output_dir, committed=False)


class _PowerCut:
    """A file system that remembers what a power cut would leave, told of each operation in turn.

    Bytes that were not fsynced are lost. Names are lost until their directory is fsynced; or, as
    a file system is free to do, all names survive and only the bytes are lost.
    """

    def __init__(self, before: Path) -> None:
        self.written: dict[Path, bytes] = {}
        self.synced: dict[Path, bytes] = {}
        self.names: dict[Path, dict[str, Path]] = {}  # of a directory, by the path it was made at
        self.synced_names: dict[Path, dict[str, Path]] = {}
        self.top = {path.name: path for path in before.iterdir()}
        self.synced_top = dict(self.top)
        for path in before.iterdir():
            self.names[path] = {file.name: file for file in path.iterdir()}
            self.synced_names[path] = dict(self.names[path])
            self.synced.update({file: file.read_bytes() for file in path.iterdir()})

    def make_directory(self, path: Path) -> None:
        self.top[path.name] = path
        self.names[path], self.synced_names[path] = {}, {}

    def create(self, path: Path) -> None:
        self.names[path.parent][path.name] = path
        self.written[path] = b""

    def write(self, path: Path, data: bytes) -> None:
        self.written[path] += data

    def sync(self, path: Path) -> None:
        self.synced[path] = self.written[path]

    def sync_directory(self, path: Path) -> None:
        if path in self.names:
            self.synced_names[path] = dict(self.names[path])
        else:
            self.synced_top = dict(self.top)

    def rename(self, old: Path, new: Path) -> None:
        self.top[new.name] = self.top.pop(old.name)

    def remove_file(self, path: Path) -> None:
        self.names[self.top[path.parent.name]].pop(path.name)

    def remove_directory(self, path: Path) -> None:
        self.top.pop(path.name)

    def leave(self, target: Path, *, names_survive: bool) -> None:
        """Write into `target` what is left."""
        names = self.names if names_survive else self.synced_names
        for directory, made_at in (self.top if names_survive else self.synced_top).items():
            (target / directory).mkdir()
            for name, file in names[made_at].items():
                (target / directory / name).write_bytes(self.synced.get(file, b""))


def cut_at_every_operation(
    tmp_path: Path, operations: list[tuple[object, ...]], *, names_survive: bool
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    sound = Checkpoints(before, keep=2)
    sound.save(10, files_of(10))
    sound.save(20, files_of(20))
    moved = [
        tuple(
            before / part.relative_to(tmp_path / "recorded") if isinstance(part, Path) else part
            for part in operation
        )
        for operation in operations
    ]
    parent_synced = ("sync_directory", before)
    returned = max(i for i, operation in enumerate(moved) if operation[:2] == parent_synced)
    for count in range(len(moved) + 1):
        target = tmp_path / f"cut-{count}-{names_survive}"
        target.mkdir()
        disk = _PowerCut(before)
        for name, *details in moved[:count]:
            getattr(disk, str(name))(*details)
        disk.leave(target, names_survive=names_survive)
        assert_usable(target, committed=count > returned)


@pytest.mark.parametrize("names_survive", [False, True])
def test_a_power_cut_at_every_operation_of_a_save(tmp_path: Path, *, names_survive: bool) -> None:
    """Replayed with unsynced bytes and names dropped: always one that is whole, 30 once saved."""
    (tmp_path / "recorded").mkdir()
    operations = recorded_save(tmp_path / "recorded")
    cut_at_every_operation(tmp_path, operations, names_survive=names_survive)


@pytest.mark.parametrize(
    ("forgotten", "names_survive"), [("sync", True), ("sync", False), ("sync_directory", False)]
)
def test_the_power_cut_test_sees_a_forgotten_fsync(
    tmp_path: Path, forgotten: str, *, names_survive: bool
) -> None:
    """With the fsyncs of files, or of the new directory, left out, the replay finds the damage."""
    (tmp_path / "recorded").mkdir()
    operations = recorded_save(tmp_path / "recorded")
    last = len(operations) - 1 - [o[0] for o in operations][::-1].index("sync_directory")
    faulty = [o for i, o in enumerate(operations) if o[0] != forgotten or i == last]
    with pytest.raises(AssertionError):
        cut_at_every_operation(tmp_path, faulty, names_survive=names_survive)


def test_the_manifest_is_written_last_and_the_name_given_after(tmp_path: Path) -> None:
    """Files, manifest, directory, rename, parent, and only then the old checkpoint's removal."""
    (tmp_path / "recorded").mkdir()
    operations = recorded_save(tmp_path / "recorded")
    created = [Path(str(o[1])).name for o in operations if o[0] == "create"]
    assert created == [*files_of(30), "manifest.json"]
    order = [str(o[0]) for o in operations]
    rename = order.index("rename")
    assert order[rename - 2 : rename + 2] == ["sync", "sync_directory", "rename", "sync_directory"]
    assert "remove_file" not in order[: rename + 2]
    assert "remove_file" in order[rename + 2 :]


def test_the_manifest_states_every_file(tmp_path: Path) -> None:
    """Name, size and sha256 of each, and the facts it was given."""
    publish_directory(Disk(), tmp_path / "x", {"a": b"abc"}, {"kind": "model", "step": 3})
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_bytes())
    assert (manifest["schema"], manifest["kind"], manifest["step"]) == (
        "costguard.manifest/1",
        "model",
        3,
    )
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["files"] == [{"name": "a", "size": 3, "sha256": sha256}]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda d: (d / "a").write_bytes(b"abd"), "a does not have the sha256"),
        (lambda d: (d / "a").write_bytes(b"ab"), "a has 2 bytes"),
        (lambda d: (d / "a").unlink(), "a cannot be read"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda d: (d / "manifest.json").write_bytes(b"{"), "manifest.json is missing or cannot"),
        (lambda d: (d / "manifest.json").write_bytes(b"[]"), "manifest.json is missing or cannot"),
    ],
)
def test_damage_is_found_and_named(
    tmp_path: Path, damage: Callable[[Path], None], what: str
) -> None:
    """One changed bit, a short or missing file, a bad manifest: each is told apart from a whole."""
    publish_directory(Disk(), tmp_path / "x", {"a": b"abc"}, {})
    assert read_directory(tmp_path / "x")[0] == {"a": b"abc"}
    damage(tmp_path / "x")
    with pytest.raises(DamagedError, match=what):
        read_directory(tmp_path / "x")


def test_an_existing_directory_is_never_renamed_onto(tmp_path: Path) -> None:
    """Without `displace` it is refused; with it the old one is moved aside, bytes and all."""
    publish_directory(Disk(), tmp_path / "x", {"a": b"old"}, {})
    with pytest.raises(FileExistsError):
        publish_directory(Disk(), tmp_path / "x", {"a": b"new"}, {})
    assert read_directory(tmp_path / "x")[0] == {"a": b"old"}
    publish_directory(Disk(), tmp_path / "x", {"a": b"new"}, {}, displace=True)
    assert read_directory(tmp_path / "x")[0] == {"a": b"new"}
    assert read_directory(tmp_path / "displaced-x-1")[0] == {"a": b"old"}
