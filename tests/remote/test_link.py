from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from costguard.remote.link import Link, LinkOptions, LinkPlan, Upload
from costguard.remote.ssh import make_client_key
from tests.agent.harness import TOY, lives, wait_until
from tests.remote.ssh_server import new_host_key, public_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from costguard.remote.ssh import SshTarget
    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine, Proxy

QUICK = LinkOptions(backoff_first_s=0.05, backoff_max_s=0.2, connect_timeout_s=5, auth_tries=2)
HOSTILE_DIRECTORY = '-rf it\'s $(touch pwned) "a"\njob'


class Daemon:
    """Stands where the daemon will: drains a link, and grants a lease to every heartbeat."""

    def __init__(self, plan: LinkPlan, options: LinkOptions = QUICK, *, grant: bool = True) -> None:
        self.plan = plan
        self.messages: list[dict[str, Any]] = []
        self.woken = threading.Event()
        self.link = Link(plan, self.woken.set, options)
        self._grant = grant
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self.link.start()
        self._thread.start()

    def _loop(self) -> None:
        while not self._ended.is_set():
            self.woken.wait(0.1)
            self.woken.clear()
            for message in self.link.drain():
                self.messages.append(message)
                if message["t"] == "heartbeat" and self._grant:
                    lease = {"t": "lease", "id": "L", "heartbeat": message["n"]}
                    self.link.send({**lease, "valid_ms": 60_000})

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of one kind so far."""
        return [message for message in list(self.messages) if message["t"] == kind]

    def states(self) -> list[str]:
        """The link's states so far."""
        return [message["state"] for message in self.of("link")]

    def lost(self, times: int) -> bool:
        """Whether the line has been lost so often."""
        return self.states().count("lost") == times

    def wait_for(self, kind: str, **like: Any) -> dict[str, Any]:
        """The first message of `kind` with these fields."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [
                one for one in self.of(kind) if all(one.get(key) == like[key] for key in like)
            ]
            return bool(found)

        wait_until(look, f"{kind} {like}; states: {self.of('link')}")
        return found[0]

    def journal(self) -> list[dict[str, Any]]:
        """The numbered messages."""
        return [message for message in list(self.messages) if "seq" in message]

    def end(self) -> None:
        """Closes the link; nothing of it remains."""
        self.link.close()
        self._ended.set()
        self._thread.join(5)
        assert self.link.join(10)


class World:
    """Daemons on one instance, and what they started there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.daemons: list[Daemon] = []
        self.directories: set[Path] = set()

    def plan(self, target: SshTarget, job_dir: str, toy: Any = None, **spec: Any) -> LinkPlan:
        """A job for the toy trainer."""
        self.directories.add(self.home / "instance" / "home" / job_dir)
        return LinkPlan(
            target=target,
            job_dir=job_dir,
            uploads=(Upload(TOY, "toy.py"),),
            spec={
                "run_id": "run-1",
                "argv": ["{python}", "toy.py", json.dumps(toy or {})],
                "env": {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                "needs": ["json"],
                "telemetry": {"sample_s": 0.1, "window_s": 0.3, "heartbeat_s": 0.1},
                **spec,
            },
            pull_to=self.home / "artifacts",
            after_seq=0,
        )

    def run(self, plan: LinkPlan, options: LinkOptions = QUICK, *, grant: bool = True) -> Daemon:
        """A daemon with this plan."""
        self.daemons.append(Daemon(plan, options, grant=grant))
        return self.daemons[-1]

    def end(self) -> None:
        """Ends the daemons, the agents and the trainings."""
        for daemon in self.daemons:
            daemon.end()
        pids: set[int] = set()
        for directory in self.directories:
            journal = directory / "journal.jsonl"
            if journal.exists():
                for record in map(json.loads, journal.read_bytes().splitlines()):
                    if record["t"] in {"hello", "started"}:
                        pids.add(record["pid"])
        for pid in filter(lives, pids):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(lives, pids)), "the end of the agents")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Whatever a test starts on the instance, ended."""
    made = World(tmp_path)
    yield made
    made.end()


def absolute(machine: Machine | OpenSsh, name: str = "job") -> str:
    """A directory on the instance."""
    return f"{machine.home}/{name}"


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


def test_a_cut_line_is_mended_without_loss_or_repetition(
    any_machine: Machine | OpenSsh, world: World
) -> None:
    """Also when the server itself is restarted; the training never notices."""
    toy = {"steps": 15, "gates": {"5": "one", "10": "two"}}
    daemon = world.run(world.plan(any_machine.target(), absolute(any_machine), toy))
    for count, (step, gate) in enumerate({5: "one", 10: "two"}.items(), start=1):
        daemon.wait_for("progress", step=step)
        any_machine.cut()
        wait_until(functools.partial(daemon.lost, count), "the loss")
        (any_machine.home / "job" / gate).touch()
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [one["step"] for one in daemon.of("progress")] == list(range(1, 16))
    assert daemon.states().count("attached") == 3
    assert daemon.states().count("preparing") == 1
    assert len(daemon.of("started")) == 1


def test_a_line_cut_in_mid_line_costs_nothing(
    machine: Machine, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """At any number of bytes."""
    proxy = make_proxy(machine.port)
    toy = {"steps": 15, "gates": {"5": "go on"}}
    daemon = world.run(world.plan(machine.target(port=proxy.port), absolute(machine), toy))
    daemon.wait_for("progress", step=5)
    for _ in range(2):
        proxy.cut_after = proxy.passed + 1777
        wait_until(lambda: proxy.cut_after is None, "the cut")
    (machine.home / "job" / "go on").touch()
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_connection_reset_in_mid_line_costs_nothing(
    any_machine: Machine | OpenSsh, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """RST instead of an orderly end, in the middle of what was being sent."""
    proxy = make_proxy(any_machine.port)
    proxy.cut_by_reset = True
    toy = {"steps": 15, "gates": {"5": "go on"}}
    plan = world.plan(any_machine.target(port=proxy.port), absolute(any_machine), toy)
    daemon = world.run(plan)
    daemon.wait_for("progress", step=5)
    proxy.cut_after = proxy.passed + 1234
    wait_until(lambda: proxy.cut_after is None, "the reset")
    wait_until(functools.partial(daemon.lost, 1), "the loss")
    (any_machine.home / "job" / "go on").touch()
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(daemon.of("started")) == 1


def test_a_line_of_one_byte_at_a_time_is_given_up_and_costs_nothing(
    machine: Machine, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """Alive by TCP and useless: no whole message in time is silence, and the training goes on.

    Scaled: a byte each 20 ms against a silence of 0.6 s, as a byte a second against 30 s.
    """
    proxy = make_proxy(machine.port)
    toy = {"steps": 15, "gates": {"5": "go on"}}
    plan = world.plan(machine.target(port=proxy.port), absolute(machine), toy)
    daemon = world.run(plan, replace(QUICK, silence_s=0.6, connect_timeout_s=0.5))
    daemon.wait_for("progress", step=5)
    proxy.byte_each_s = 0.02
    wait_until(lambda: daemon.states().count("lost") >= 2, "two tries given up")
    (machine.home / "job" / "go on").touch()
    proxy.byte_each_s = None
    daemon.wait_for("exit", code=0)
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_half_open_line_is_given_up(
    machine: Machine, world: World, make_proxy: Callable[[int], Proxy]
) -> None:
    """Nothing is closed, nothing comes: after the silence it counts as lost, and is made anew."""
    proxy = make_proxy(machine.port)
    plan = world.plan(machine.target(port=proxy.port), absolute(machine), {"hold_s": 30})
    options = LinkOptions(silence_s=0.6, backoff_first_s=0.05, connect_timeout_s=1)
    daemon = world.run(plan, options)
    daemon.wait_for("progress", step=5)
    proxy.frozen.set()
    lost = daemon.wait_for("link", state="lost")
    assert "nothing heard for 0.6 s" in lost["detail"]
    proxy.frozen.clear()
    wait_until(lambda: daemon.states()[-1] == "attached", "the line's return")


def test_a_changed_host_key_ends_it(machine: Machine, world: World) -> None:
    """Refused for good, with the code; no second attempt, no command."""
    target = machine.target(host_keys=(public_line(new_host_key()),))
    daemon = world.run(world.plan(target, absolute(machine)))
    refused = daemon.wait_for("link", state="refused")
    assert refused["code"] == "host_key_changed"
    assert daemon.link.join(0.3) is False  # only the thread for downloads still waits
    assert machine.connections == 1
    assert machine.commands == []


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


def test_another_daemon_takes_over_once(machine: Machine, world: World) -> None:
    """The first is told and stands back: two do not wrestle for one agent."""
    plan = world.plan(machine.target(), absolute(machine), {"hold_s": 30})
    first = world.run(plan)
    first.wait_for("progress", step=5)
    second = world.run(plan)
    second.wait_for("link", state="attached")
    assert first.wait_for("link", state="refused")["code"] == "replaced"
    second.wait_for("progress", step=5)
    assert second.states().count("lost") == 0


def test_an_agent_that_died_is_started_again(machine: Machine, world: World) -> None:
    """The training goes on, and no record is lost."""
    toy = {"steps": 15, "gates": {"5": "go on"}}
    daemon = world.run(world.plan(machine.target(), absolute(machine), toy))
    daemon.wait_for("progress", step=5)
    os.kill(daemon.of("hello")[0]["pid"], signal.SIGKILL)
    wait_until(lambda: len(daemon.of("hello")) == 2, "the next agent")
    (machine.home / "job" / "go on").touch()
    daemon.wait_for("exit")
    assert len(daemon.of("hello")) == 2
    assert [one["step"] for one in daemon.of("progress")] == list(range(1, 16))
    numbers = [one["seq"] for one in daemon.journal()]
    assert numbers == list(range(1, len(numbers) + 1))


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
