from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.localcloud.world import ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import paramiko


@pytest.fixture
def sftp(instance: dict[str, Any]) -> Iterator[paramiko.SFTPClient]:
    """An SFTP session on the shared instance."""
    with ssh(instance) as client, client.open_sftp() as session:
        yield session


@pytest.fixture
def work(instance: dict[str, Any], request: pytest.FixtureRequest) -> Path:
    """A folder of this test's own below the instance's work folder."""
    folder = Path(str(instance["work_dir"]), request.node.name.replace("/", "_")[:60])
    folder.mkdir()
    return folder


def test_files_arrive_whole_under_their_real_paths(
    sftp: paramiko.SFTPClient, work: Path, tmp_path: Path
) -> None:
    """A megabyte of every byte goes up and comes back the same."""
    data = os.urandom(1_000_000)
    (tmp_path / "up").write_bytes(data)
    sftp.put(str(tmp_path / "up"), f"{work}/file")
    assert (work / "file").read_bytes() == data
    sftp.get(f"{work}/file", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == data


def test_files_are_appended_to_and_overwritten(sftp: paramiko.SFTPClient, work: Path) -> None:
    """Append writes at the end, r+ writes where it was told, w begins anew."""
    for mode, text in (("w", "abc"), ("a", "def"), ("a", "ghi")):
        with sftp.open(f"{work}/file", mode) as file:
            file.write(text)
    with sftp.open(f"{work}/file", "r+") as file:
        file.seek(3)
        file.write("DEF")
    assert (work / "file").read_text() == "abcDEFghi"
    with sftp.open(f"{work}/file", "w") as file:
        file.write("x")
    assert (work / "file").read_text() == "x"


def test_exclusive_open_refuses_what_is_there(sftp: paramiko.SFTPClient, work: Path) -> None:
    """Mode x makes a file once."""
    sftp.open(f"{work}/file", "x").close()
    with pytest.raises(OSError, match="Failure"):
        sftp.open(f"{work}/file", "x")


def test_attributes_are_told_and_changed(sftp: paramiko.SFTPClient, work: Path) -> None:
    """stat, chmod, utime and truncate; a shorter file keeps its beginning."""
    (work / "file").write_text("abcdef")
    sftp.chmod(f"{work}/file", 0o640)
    sftp.utime(f"{work}/file", (1_000, 2_000))
    sftp.truncate(f"{work}/file", 3)
    shown = sftp.stat(f"{work}/file")
    assert shown.st_mode is not None
    assert (stat.S_IMODE(shown.st_mode), shown.st_size) == (0o640, 3)
    assert (work / "file").read_text() == "abc"
    with sftp.open(f"{work}/file", "r+") as file:
        file.truncate(1)
        assert file.stat().st_size == 1
    sftp.utime(f"{work}/file", (1_000, 2_000))
    assert sftp.stat(f"{work}/file").st_mtime == 2_000


def test_folders_are_made_listed_and_removed(sftp: paramiko.SFTPClient, work: Path) -> None:
    """mkdir, listdir with attributes, rmdir of what is empty only, remove."""
    sftp.mkdir(f"{work}/folder")
    (work / "folder" / "file").write_text("x")
    (entry,) = sftp.listdir_attr(f"{work}/folder")
    assert (entry.filename, entry.st_size) == ("file", 1)
    with pytest.raises(OSError, match="Failure"):
        sftp.rmdir(f"{work}/folder")
    sftp.remove(f"{work}/folder/file")
    sftp.rmdir(f"{work}/folder")
    assert list(work.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        sftp.stat(f"{work}/folder")


def test_rename_keeps_and_posix_rename_replaces(sftp: paramiko.SFTPClient, work: Path) -> None:
    """A rename refuses a name that is taken; posix-rename replaces in one step."""
    (work / "new").write_text("new")
    (work / "old").write_text("old")
    with pytest.raises(OSError, match="Failure"):
        sftp.rename(f"{work}/new", f"{work}/old")
    sftp.posix_rename(f"{work}/new", f"{work}/old")
    assert (work / "old").read_text() == "new"
    sftp.rename(f"{work}/old", f"{work}/other")
    assert [one.name for one in work.iterdir()] == ["other"]


def test_relative_paths_count_from_the_disk(
    sftp: paramiko.SFTPClient, instance: dict[str, Any]
) -> None:
    """A name without a slash lies on top of the disk."""
    assert sftp.normalize(".") == instance["work_dir"].removesuffix("/work")
    assert sftp.normalize("work/../work/x") == instance["work_dir"] + "/x"


@pytest.mark.parametrize("where", ["/etc/passwd", "{disk}/../x", "../x", "{disk}-other/x", "/"])
def test_paths_outside_are_refused(
    sftp: paramiko.SFTPClient, instance: dict[str, Any], work: Path, where: str
) -> None:
    """Whatever is asked for outside of the disk is denied, also where it does not exist."""
    outside = where.format(disk=instance["work_dir"].removesuffix("/work"))
    (work / "file").write_text("x")
    attempts: list[Callable[[], object]] = [
        lambda: sftp.open(outside),
        lambda: sftp.open(outside, "w"),
        lambda: sftp.stat(outside),
        lambda: sftp.lstat(outside),
        lambda: sftp.listdir(outside),
        lambda: sftp.mkdir(outside),
        lambda: sftp.remove(outside),
        lambda: sftp.rmdir(outside),
        lambda: sftp.chmod(outside, 0o777),
        lambda: sftp.posix_rename(f"{work}/file", outside),
        lambda: sftp.rename(outside, f"{work}/other"),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError):
            attempt()


def test_links_out_of_the_disk_are_refused(
    sftp: paramiko.SFTPClient, work: Path, tmp_path: Path
) -> None:
    """A link to the outside is neither followed nor written through; it can be removed."""
    (tmp_path / "secret").write_text("secret")
    (work / "file").symlink_to(tmp_path / "secret")
    (work / "folder").symlink_to(tmp_path)
    (work / "dangling").symlink_to(tmp_path / "new")
    attempts: list[Callable[[], object]] = [
        lambda: sftp.open(f"{work}/file"),
        lambda: sftp.stat(f"{work}/file"),
        lambda: sftp.open(f"{work}/folder/secret"),
        lambda: sftp.lstat(f"{work}/folder/secret"),
        lambda: sftp.listdir(f"{work}/folder"),
        lambda: sftp.open(f"{work}/dangling", "w"),
        lambda: sftp.chmod(f"{work}/file", 0),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError):
            attempt()
    assert stat.S_ISLNK(sftp.lstat(f"{work}/file").st_mode or 0)
    sftp.remove(f"{work}/file")
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == "secret"


def test_links_inside_the_disk_are_followed(sftp: paramiko.SFTPClient, work: Path) -> None:
    """A link that stays on the disk works as anywhere."""
    (work / "file").write_text("inside")
    (work / "link").symlink_to(work / "file")
    with sftp.open(f"{work}/link") as file:
        assert file.read() == b"inside"
