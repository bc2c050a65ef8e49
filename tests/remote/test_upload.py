from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from costguard.remote.bundle import build_agent
from costguard.remote.ssh import RefusedError, UnreachableError, connect
from costguard.remote.upload import (
    PART_SUFFIX,
    Upload,
    link_from,
    list_files,
    make_directories,
    remote_hashes,
    send_bytes,
    send_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import paramiko

    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine, Proxy

HOSTILE = ["-rf", "a b", "it's", 'say "hi"', "$(touch pwned)", "new\nline", "线", "~", "*"]


@pytest.fixture
def client(machine: Machine) -> Iterator[paramiko.SSHClient]:
    """A connection to the instance."""
    with closing(connect(machine.target())) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory to upload, with names that a shell would stumble over."""
    made = tmp_path / "our $(files)"
    (made / "sub dir").mkdir(parents=True)
    for name in HOSTILE:
        (made / name).write_text(f"content of {name}")
    (made / "sub dir" / "data.jsonl").write_bytes(b"x" * 300_000)
    (made / "__pycache__").mkdir()
    (made / "__pycache__" / "x.pyc").write_bytes(b"cache")
    return made


def test_a_directory_arrives_as_it_is(any_machine: Machine | OpenSsh, source: Path) -> None:
    """Names and contents, but no caches; progress runs from nothing to all."""
    files = list_files([Upload(source, "up/to here")])
    directory = f"{any_machine.home}/it's $(a) job"
    told: list[tuple[int, int]] = []
    with closing(connect(any_machine.target())) as client:
        send_files(client, directory, files, lambda done, total: told.append((done, total)))
    there = Path(directory) / "up/to here"
    found = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert found == {*HOSTILE, "sub dir/data.jsonl"}
    for name in HOSTILE:
        assert (there / name).read_text() == f"content of {name}"
    total = sum(file.size for file in files)
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert told == sorted(told)


def test_a_file_keeps_its_x(client: paramiko.SSHClient, machine: Machine, tmp_path: Path) -> None:
    """A script of the user's can be run there."""
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    send_files(client, str(machine.home), list_files([Upload(script, "run.sh")]))
    assert os.access(machine.home / "run.sh", os.X_OK)


def test_what_is_there_is_known_by_its_content(
    client: paramiko.SSHClient, machine: Machine, source: Path
) -> None:
    """The same bytes have the same hash there; what is missing has none."""
    send_bytes(client, build_agent(), f"{machine.home}/agent.pyz")
    files = list_files([Upload(source, "up")])
    send_files(client, str(machine.home), files[1:])
    agent = (sys.executable, f"{machine.home}/agent.pyz")
    names = [file.remote for file in files]
    there = remote_hashes(client, agent, str(machine.home), names)
    assert there.pop(files[0].remote) is None
    assert there == {file.remote: file.sha256 for file in files[1:]}


def test_a_file_replaces_the_one_before(client: paramiko.SSHClient, machine: Machine) -> None:
    """In one move, and nothing half-done is left."""
    target = machine.home / "spec.json"
    target.write_text("old")
    send_bytes(client, b"new", str(target))
    assert target.read_bytes() == b"new"
    assert [path.name for path in machine.home.iterdir()] == ["spec.json"]


def test_a_broken_upload_leaves_no_file_under_the_name(
    machine: Machine, source: Path, make_proxy: Callable[[int], Proxy]
) -> None:
    """It is unreachable, not refused: the next attempt starts over."""
    proxy = make_proxy(machine.port)
    files = [one for one in list_files([Upload(source, "up")]) if one.size > 1000]
    with closing(connect(machine.target(port=proxy.port))) as client:
        proxy.bytes_per_s = 1e6

        def cut(done: int, _total: int) -> None:
            if done > 0:
                proxy.cut()

        with pytest.raises(UnreachableError):
            send_files(client, str(machine.home), files, cut)
    assert not (machine.home / files[0].remote).exists()


def test_a_broken_upload_of_a_large_file_goes_on_where_it_was(
    machine: Machine, tmp_path: Path, make_proxy: Callable[[int], Proxy]
) -> None:
    """What came before the cut is kept; what is there of another version is not built upon."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(os.urandom(6 * 1024 * 1024))
    files = list_files([Upload(model, "model.safetensors")])
    (machine.home / "agent.pyz").write_bytes(build_agent())
    agent = (sys.executable, "-I", "-S", f"{machine.home}/agent.pyz")
    part = machine.home / f"model.safetensors{PART_SUFFIX}"
    proxy = make_proxy(machine.port)
    with closing(connect(machine.target(port=proxy.port))) as client:

        def cut(done: int, total: int) -> None:
            if done > total // 2:
                proxy.cut()

        with pytest.raises(UnreachableError):
            send_files(client, str(machine.home), files, cut, agent)
    came = part.stat().st_size
    assert 0 < came < files[0].size
    told: list[int] = []
    with closing(connect(machine.target())) as client:
        send_files(client, str(machine.home), files, lambda done, _: told.append(done), agent)
    assert (machine.home / "model.safetensors").read_bytes() == model.read_bytes()
    assert min(told[1:]) > came
    part.write_bytes(b"of another version" * 1000)
    with closing(connect(machine.target())) as client:
        send_files(client, str(machine.home), files, agent=agent)
    assert (machine.home / "model.safetensors").read_bytes() == model.read_bytes()


def test_what_an_earlier_stage_was_sent_is_not_sent_again(
    client: paramiko.SSHClient, machine: Machine, tmp_path: Path
) -> None:
    """By its content, whatever else has its name; small files are quicker sent than asked for."""
    model, rows = tmp_path / "model", tmp_path / "rows.jsonl"
    model.write_bytes(b"m" * (5 * 1024 * 1024))
    rows.write_text("row")
    files = list_files([Upload(model, "a/model"), Upload(rows, "rows.jsonl")])
    (machine.home / "agent.pyz").write_bytes(build_agent())
    agent = (sys.executable, "-I", "-S", f"{machine.home}/agent.pyz")
    for stage, content in ((0, b"m" * (5 * 1024 * 1024)), (1, b"another")):
        folder = machine.home / f"stage-{stage}" / "a"
        folder.mkdir(parents=True)
        (folder / "model").write_bytes(content)
    (machine.home / "stage-2").mkdir()
    directory = f"{machine.home}/stage-2"
    left = link_from(client, agent, directory, files, ["../stage-0", "../stage-1"])
    assert [file.remote for file in left] == ["rows.jsonl"]
    assert (machine.home / "stage-2/a/model").samefile(machine.home / "stage-0/a/model")


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    """Before anything travels."""
    with pytest.raises(RefusedError, match="no_such_file") as caught:
        list_files([Upload(tmp_path / "no_such_file", "x")])
    assert caught.value.code == "upload_impossible"
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(RefusedError, match="dangling"):
        list_files([Upload(tmp_path, "x")])


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    """SFTP has no way to say it."""
    (tmp_path / os.fsdecode(b"caf\xe9")).write_text("x")
    with pytest.raises(RefusedError, match="UTF-8"):
        list_files([Upload(tmp_path, "x")])


def test_a_place_that_cannot_be_written_is_refused(
    client: paramiko.SSHClient, machine: Machine, source: Path
) -> None:
    """With what the instance said; the connection is not to blame."""
    (machine.home / "taken").write_text("a file where a directory should be")
    with pytest.raises(RefusedError, match="cannot make the job's directory"):
        make_directories(client, [f"{machine.home}/taken/deeper"])
    with pytest.raises(RefusedError) as caught:
        send_bytes(client, b"x", f"{machine.home}/no/such/directory/x")
    assert caught.value.code == "upload_impossible"
    assert not list(machine.home.glob(f"*{PART_SUFFIX}"))
