from __future__ import annotations

import shlex
import socket
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costguard.remote.link import Link, LinkOptions, LinkPlan, Upload
from costguard.remote.prepare import find_python
from costguard.remote.ssh import connect, make_client_key
from tests.agent.harness import wait_until
from tests.remote.world import HOSTILE_DIRECTORY, World, absolute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine, Proxy


def test_from_nothing_to_the_artifact_at_home(any_machine: Machine | OpenSsh, world: World) -> None:
    """Connect, prepare, upload, start, stream, and the adapter pulled while attached."""
    plan = world.plan(any_machine.target(), absolute(any_machine), {"checkpoint_at": [2]})
    daemon = world.run(plan)
    ended = daemon.wait_for("exit", code=0)
    assert daemon.states() == ["connecting", "connected", "preparing", "attached"]
    assert daemon.wait_for("probe")["needs"]["missing"] == []
    assert daemon.of("upload")[-1]["done_bytes"] == daemon.of("upload")[-1]["total_bytes"] > 0
    assert [one["step"] for one in daemon.of("progress")] == [1, 2, 3, 4, 5]
    assert all(isinstance(one["received_boot_ms"], int) for one in daemon.journal())
    daemon.link.pull("adapter", ended["artifact"]["files"])
    pulled = daemon.wait_for("pulled", name="adapter")
    assert pulled["ok"] is True
    home = plan.pull_to / "adapter"
    assert pulled["bytes"] == sum(one.stat().st_size for one in home.rglob("*") if one.is_file())
    assert (home / "manifest.json").exists()


def test_hostile_names_reach_the_instance_as_names(machine: Machine, world: World) -> None:
    """The job's directory, relative to the log-in, and everything in the order."""
    argv = ["{python}", "toy.py", "{}", "$(touch pwned)", "; touch pwned", "a\nb"]
    daemon = world.run(world.plan(machine.target(), HOSTILE_DIRECTORY, argv=argv))
    ended = daemon.wait_for("exit", code=0)
    assert daemon.of("started")[0]["argv"][3:] == argv[3:]
    daemon.link.pull("adapter", ended["artifact"]["files"])
    assert daemon.wait_for("pulled")["ok"] is True
    assert (machine.home / HOSTILE_DIRECTORY / "journal.jsonl").exists()
    assert not list(world.home.rglob("pwned"))


def test_hostile_paths_and_data_sets_reach_any_server_as_names(
    any_machine: Machine | OpenSsh, world: World
) -> None:
    """A job's folder and a data set whose names are a shell's nightmare, through OpenSSH too."""
    data = world.home / "$(touch pwned); 'a' \"b\"\n线.jsonl"
    data.write_text("{}\n")
    names = (f"data/{data.name}", "-n", "~", "*", "a b/ c ")
    uploads = tuple(Upload(data, name) for name in names)
    argv = ["{python}", "toy.py", "{}", "--dataset", names[0], "`touch pwned`"]
    plan = world.plan(any_machine.target(), absolute(any_machine, HOSTILE_DIRECTORY), argv=argv)
    daemon = world.run(replace(plan, uploads=(*plan.uploads, *uploads)))
    daemon.wait_for("exit", code=0)
    assert daemon.of("started")[0]["argv"][3:] == argv[3:]
    for name in names:
        assert (any_machine.home / HOSTILE_DIRECTORY / name).read_text() == "{}\n"
    assert not list(world.home.rglob("pwned"))


def test_a_refused_log_in_is_believed_after_its_tries(machine: Machine, world: World) -> None:
    """Fresh instances open their port before they know our key."""
    stranger = world.home / "stranger"
    make_client_key(stranger)
    daemon = world.run(world.plan(machine.target(client_key_path=stranger), absolute(machine)))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "auth_refused"
    assert [one["code"] for one in daemon.of("link") if one["state"] == "lost"] == ["auth_refused"]
    assert machine.connections == 2


def test_a_key_that_comes_late_is_no_refusal(machine: Machine, world: World) -> None:
    """The platform writes it seconds after the port is open."""
    known, machine.authorized = machine.authorized, "ssh-ed25519 AAAA nobody"
    options = LinkOptions(backoff_first_s=0.2, auth_tries=20)
    daemon = world.run(world.plan(machine.target(), absolute(machine)), options)
    daemon.wait_for("link", state="lost", code="auth_refused")
    machine.authorized = known
    daemon.wait_for("link", state="attached")


def test_missing_modules_are_named(machine: Machine, world: World) -> None:
    """Before the data are uploaded, and for good."""
    needs = ["json", "no_such_module_here"]
    daemon = world.run(world.plan(machine.target(), absolute(machine), needs=needs))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "missing_modules"
    assert "no_such_module_here" in refused["detail"]
    assert not (machine.home / "job" / "toy.py").exists()


def test_an_instance_without_python_is_refused(machine: Machine, world: World) -> None:
    """In one clear sentence."""
    empty = world.home / "bin"
    empty.mkdir()
    for name in ("sh", "mkdir"):
        (empty / name).symlink_to(f"/bin/{name}")
    machine.env = {"PATH": str(empty), "HOME": str(machine.home)}
    daemon = world.run(world.plan(machine.target(), absolute(machine)))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "no_python"
    assert "3.10" in refused["detail"]


def test_the_newest_python_there_is_taken(machine: Machine) -> None:
    """Also one of a version that came out after us, beside older ones and what is no Python."""
    folder = machine.home / "a folder"
    folder.mkdir()
    says = {"python3": "3 11", "python3.9": "", "python3.11": "3 11", "python3.19": "3 19"}
    for name, version in says.items():
        answer = f"echo {version} /there/{name}" if version else "exit 1"
        (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / name).chmod(0o755)
    (folder / "python3.20").write_text("not even a program")
    machine.env = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(machine.home)}
    with closing(connect(machine.target())) as client:
        assert find_python(client) == "/there/python3.19"


def test_an_upload_that_cannot_be_is_refused(machine: Machine, world: World) -> None:
    """A data set that is not there, a job directory that cannot be."""
    plan = world.plan(machine.target(), absolute(machine))
    missing = LinkPlan(**{**vars(plan), "uploads": (Upload(world.home / "no.jsonl", "x"),)})
    first = world.run(missing)
    refused = first.wait_for("link", state="refused")
    assert refused["code"] == "upload_impossible"
    assert "no.jsonl" in refused["detail"]
    (machine.home / "file").write_text("")
    second = world.run(world.plan(machine.target(), absolute(machine, "file/job")))
    assert second.wait_for("link", state="refused")["code"] == "upload_impossible"


def test_a_full_disk_is_refused_before_the_upload(
    machine: Machine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the figures of the probe."""
    monkeypatch.setattr("costguard.remote.prepare.DISK_MARGIN_BYTES", 1 << 60)
    daemon = world.run(world.plan(machine.target(), absolute(machine)))
    assert daemon.wait_for("link", state="refused")["code"] == "disk_full"
    assert not (machine.home / "job" / "toy.py").exists()


def test_nothing_is_uploaded_twice(machine: Machine, world: World) -> None:
    """A second daemon finds everything in place, and the training running."""
    plan = world.plan(machine.target(), absolute(machine), {"hold_s": 30})
    first = world.run(plan)
    seen = first.wait_for("progress", step=5)["seq"]
    first.end()
    second = world.run(LinkPlan(**{**vars(plan), "after_seq": seen}))
    second.wait_for("link", state="attached")
    second.wait_for("gpu")
    assert not second.of("upload")
    assert all(one["seq"] > seen for one in second.journal())


def test_send_only_while_attached(machine: Machine, world: World) -> None:
    """False before and after; and it never blocks."""
    plan = world.plan(machine.target(), absolute(machine), {"steps": 10_000})
    idle = Link(plan, lambda: None)
    assert idle.send({"t": "ack", "seq": 1}) is False
    daemon = world.run(plan)
    daemon.wait_for("progress", step=3)
    assert daemon.link.send({"t": "stop", "id": "S", "save": True, "grace_s": 10}) is True
    daemon.wait_for("exit", code=75)
    daemon.end()
    assert daemon.link.send({"t": "ack", "seq": 1}) is False


def test_a_record_that_comes_twice_is_taken_once(machine: Machine, world: World) -> None:
    """Whatever an agent repeats, the daemon stores each number once."""
    link = Link(world.plan(machine.target(), absolute(machine)), lambda: None)
    for seq in (1, 2, 2, 1, 3):
        link._take({"t": "progress", "seq": seq})
    taken = [one["seq"] for one in link.drain() if one["t"] == "progress"]
    assert taken == [1, 2, 3]


def test_downloads_fail_with_a_reason(machine: Machine, world: World) -> None:
    """A name that is none, a hash that is wrong: said, and the stream goes on."""
    plan = world.plan(machine.target(), absolute(machine), {"hold_s": 30})
    daemon = world.run(plan)
    files: list[Mapping[str, Any]] = daemon.wait_for("checkpoint", name="adapter")["files"]
    daemon.link.pull("../adapter", files)
    assert daemon.wait_for("pulled", name="../adapter")["code"] == "bad_name"
    wrong = [{**one, "sha256": "0" * 64} for one in files]
    daemon.link.pull("adapter", wrong)
    assert daemon.wait_for("pulled", name="adapter")["code"] == "bad_hash"
    assert not (plan.pull_to / "adapter").exists()
    daemon.link.pull("checkpoint-9", files)
    assert daemon.wait_for("pulled", name="checkpoint-9")["code"] == "remote_missing"
    heard = len(daemon.of("heartbeat"))
    wait_until(lambda: len(daemon.of("heartbeat")) > heard, "the stream")


def test_a_download_survives_a_cut(
    machine: Machine, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """It is taken up again by itself, while the stream recovers beside it."""
    proxy = make_proxy(machine.port)
    plan = world.plan(machine.target(port=proxy.port), absolute(machine), {"hold_s": 30})
    daemon = world.run(plan)
    files = daemon.wait_for("checkpoint", name="adapter")["files"]
    proxy.cut_after = proxy.passed + 4000
    daemon.link.pull("adapter", files)
    assert daemon.wait_for("pulled")["ok"] is True
    daemon.wait_for("link", state="lost")


def test_close_is_quick_and_leaves_nothing(machine: Machine, world: World) -> None:
    """In mid-stream, and while a host does not answer."""
    daemon = world.run(world.plan(machine.target(), absolute(machine), {"hold_s": 30}))
    daemon.wait_for("progress", step=5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = machine.target(port=mute.getsockname()[1])
        waiting = world.run(world.plan(target, absolute(machine)), LinkOptions())
        waiting.wait_for("link", state="connecting")
        for one in (daemon, waiting):
            began = time.monotonic()
            one.link.close()
            assert time.monotonic() - began < 0.2
            assert one.link.join(5)


def test_a_machine_that_is_not_up_yet_is_waited_for(machine: Machine, world: World) -> None:
    """Connection refused is lost, not refused; and the waiting grows no faster than allowed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    daemon = world.run(world.plan(machine.target(port=port), absolute(machine)))
    wait_until(lambda: daemon.states().count("lost") >= 4, "four attempts")
    assert set(daemon.states()) == {"connecting", "lost"}


def test_remote_commands_hold_no_secret_and_no_shell_syntax(machine: Machine, world: World) -> None:
    """Each is a list that was quoted; what is in the order never enters a command line."""
    plan = world.plan(machine.target(), absolute(machine), env={"SECRET": "s3cr3t"})
    world.run(plan).wait_for("exit")
    for command in machine.commands:
        assert "s3cr3t" not in command
        assert shlex.join(shlex.split(command)) == command


def test_an_instance_that_does_not_fit_is_refused_with_its_table(
    machine: Machine, world: World
) -> None:
    """Before anything is uploaded, and each failed check is named."""
    needs: dict[str, Any] = {"cuda": False, "versions": {"json": "", "no_such_package": "1.0"}}
    needs |= {"model": "a/b", "model_mib": 10**9, "model_cache": "HF_HOME"}
    plan = world.plan(machine.target(), absolute(machine), contact=needs)
    daemon = world.run(plan)
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "unfit"
    assert "no_such_package: not there (the job wants: 1.0 or newer)" in refused["detail"]
    assert "MiB free (the job wants: 1000000000 MiB for the model)" in refused["detail"]
    contact = daemon.wait_for("contact")
    assert contact["verdict"] == "fail"
    assert contact["lines"]
    assert not daemon.of("upload")
    assert not daemon.of("started")
