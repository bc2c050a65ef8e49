from __future__ import annotations

import hashlib
import json
import shutil
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from costguard.remote.bundle import build_agent
from costguard.remote.download import DownloadError, Pace, download, wanted_files
from costguard.remote.ssh import UnreachableError, connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from costguard.remote.download import WantedFile
    from costguard.remote.ssh import SshTarget
    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine, Proxy

BIG = 3_000_000


class Artifact:
    """An adapter on the instance, and where it is to come home."""

    def __init__(self, machine: Machine | OpenSsh, home: Path) -> None:
        self.machine = machine
        self.there = machine.home / "job $(x)" / "output" / "adapter"
        self.target = home / "artifacts" / "adapter"
        (machine.home / "agent.pyz").write_bytes(build_agent())
        self.agent = (sys.executable, f"{machine.home}/agent.pyz")
        self.write({"big.bin": bytes(range(256)) * (BIG // 256), "a b/c'\n$(d)": b"small"})

    def write(self, contents: dict[str, bytes]) -> None:
        """Puts these files there, and their entries into `files`."""
        shutil.rmtree(self.there, ignore_errors=True)
        self.contents = contents
        entries: list[dict[str, Any]] = []
        for path, content in contents.items():
            (self.there / path).parent.mkdir(parents=True, exist_ok=True)
            (self.there / path).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            entries.append({"path": path, "size": len(content), "sha256": digest})
        self.files: list[WantedFile] = wanted_files(entries)

    def fetch(self, target: SshTarget | None = None) -> int:
        """Downloads it over a new connection."""
        with closing(connect(target or self.machine.target())) as client:
            return download(client, self.agent, str(self.there), self.files, self.target)

    def arrived(self) -> bool:
        """Whether everything is at home as it was there, and nothing else."""
        found = {
            path.relative_to(self.target).as_posix(): path.read_bytes()
            for path in self.target.rglob("*")
            if path.is_file()
        }
        beside = [path.name for path in self.target.parent.iterdir()]
        return found == self.contents and beside == ["adapter"]


def test_an_artifact_comes_home(any_machine: Machine | OpenSsh, tmp_path: Path) -> None:
    """Every byte once, under its name; a second time nothing travels."""
    artifact = Artifact(any_machine, tmp_path)
    assert artifact.fetch() == sum(map(len, artifact.contents.values()))
    assert artifact.arrived()
    assert artifact.fetch() == 0


def test_a_broken_download_is_resumed(
    machine: Machine, tmp_path: Path, make_proxy: Callable[[int], Proxy]
) -> None:
    """The rest comes, not the whole; until then nothing bears the name."""
    artifact = Artifact(machine, tmp_path)
    proxy = make_proxy(machine.port)
    proxy.cut_after = BIG // 2
    with pytest.raises(UnreachableError):
        artifact.fetch(machine.target(port=proxy.port))
    assert not artifact.target.exists()
    rest = artifact.fetch()
    assert 0 < rest < BIG * 3 // 4
    assert artifact.arrived()


def test_a_bad_hash_is_refused_and_does_not_land(machine: Machine, tmp_path: Path) -> None:
    """What was fetched of it is thrown away, so that the next attempt can succeed."""
    artifact = Artifact(machine, tmp_path)
    good = (artifact.there / "big.bin").read_bytes()
    (artifact.there / "big.bin").write_bytes(b"y" + good[1:])
    with pytest.raises(DownloadError, match=r"big\.bin") as caught:
        artifact.fetch()
    assert caught.value.code == "bad_hash"
    assert not artifact.target.exists()
    (artifact.there / "big.bin").write_bytes(good)
    artifact.fetch()
    assert artifact.arrived()


def test_a_file_of_another_size_is_not_fetched(machine: Machine, tmp_path: Path) -> None:
    """An instance cannot fill our disk with more than its manifest says."""
    artifact = Artifact(machine, tmp_path)
    (artifact.there / "big.bin").write_bytes(b"z" * (BIG * 2))
    with pytest.raises(DownloadError, match=r"has \d+ bytes") as caught:
        artifact.fetch()
    assert caught.value.code == "bad_hash"
    assert sum(path.stat().st_size for path in tmp_path.glob("artifacts/**/*.part")) == 0


def test_a_file_that_is_gone_is_said(machine: Machine, tmp_path: Path) -> None:
    """Rotated away while we came for it."""
    artifact = Artifact(machine, tmp_path)
    (artifact.there / "big.bin").unlink()
    with pytest.raises(DownloadError, match=r"big\.bin") as caught:
        artifact.fetch()
    assert caught.value.code == "remote_missing"


def test_a_new_version_replaces_the_old_one_whole(machine: Machine, tmp_path: Path) -> None:
    """No file of the old version stays among the new."""
    artifact = Artifact(machine, tmp_path)
    artifact.fetch()
    artifact.write({"other.bin": b"new"})
    artifact.fetch()
    assert artifact.arrived()


def test_rests_of_another_version_do_no_harm(
    machine: Machine, tmp_path: Path, make_proxy: Callable[[int], Proxy]
) -> None:
    """A download broken off, then the artifact written anew under the same names."""
    artifact = Artifact(machine, tmp_path)
    artifact.write({"only in v1": b"x", "big.bin": b"v1" * (BIG // 2)})
    proxy = make_proxy(machine.port)
    proxy.cut_after = BIG // 2
    with pytest.raises(UnreachableError):
        artifact.fetch(machine.target(port=proxy.port))
    artifact.write({"big.bin": b"v2" * (BIG // 2)})
    artifact.fetch()
    assert artifact.arrived()


def test_equal_files_are_no_trap(machine: Machine, tmp_path: Path) -> None:
    """Two names, one content."""
    artifact = Artifact(machine, tmp_path)
    artifact.write({"one": b"same" * 1000, "two": b"same" * 1000})
    artifact.fetch()
    assert artifact.arrived()


def test_a_disk_of_ours_that_does_not_take_it_is_said(machine: Machine, tmp_path: Path) -> None:
    """Our side's fault is not the instance's."""
    artifact = Artifact(machine, tmp_path)
    artifact.target.parent.write_text("a file where a directory should be")
    with pytest.raises(DownloadError) as caught:
        artifact.fetch()
    assert caught.value.code == "local_disk"


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "../x"},
        {"path": "/x"},
        {"path": ""},
        {"path": "a/../../x"},
        {"path": "a\0b"},
        {"path": 7},
        {"path": "x", "size": "1"},
        {"path": "x", "sha256": "../../../etc"},
    ],
)
def test_what_an_instance_names_stays_inside(entry: dict[str, Any]) -> None:
    """A manifest from there is not believed here."""
    with pytest.raises(DownloadError) as caught:
        wanted_files([{"size": 1, "sha256": "0" * 64, **entry}])
    assert caught.value.code == "bad_name"


def test_an_artifact_without_files_is_none() -> None:
    """An empty directory would look like a success."""
    with pytest.raises(DownloadError):
        wanted_files(json.loads("[]"))


def test_a_capped_download_keeps_to_its_pace() -> None:
    """On average, from the beginning; without a cap nothing waits."""
    pace = Pace(1_000_000, 100.0)
    assert pace.wait_s(100.0) == 0
    pace.took(500_000)
    assert pace.wait_s(100.1) == pytest.approx(0.4)
    assert pace.wait_s(101.0) == 0
    free = Pace(None, 100.0)
    free.took(1 << 40)
    assert free.wait_s(100.0) == 0
    assert free.at_once > pace.at_once
