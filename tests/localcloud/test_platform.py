from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from costguard.localcloud import launch, processes
from tests.localcloud.world import execute, hide, is_alive, none_alive, order, poll, ssh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.localcloud.world import Client

    StartPlatform = Callable[..., Client]

SHADOWED = ["shutdown", "poweroff", "halt", "reboot", "init", "telinit", "systemctl", "loginctl"]


def test_off_ends_everything_that_ran(start_platform: StartPlatform) -> None:
    """Stopped means: sessions, double forks and cleared environments are gone; the disk stays."""
    client = start_platform()
    instance = client.create()
    bystander = client.create()
    pids, others = hide(instance), hide(bystander)
    Path(instance["work_dir"], "kept").write_text("x")
    stopped = client.stop(instance["id"])
    assert none_alive(pids)
    assert all(is_alive(pid) for pid in others)
    assert (stopped["charging"], stopped["ssh"]) == (False, None)
    truth = {one["id"]: one["processes"] for one in client.truth()["instances"]}
    assert truth[instance["id"]] == []
    assert set(others) <= {one["pid"] for one in truth[bystander["id"]]}
    assert Path(instance["work_dir"], "kept").read_text() == "x"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", instance["ssh"]["port"]))


def test_resume_has_its_disk_and_another_port(start_platform: StartPlatform) -> None:
    """After a resume the files are there, at another port, under the same host key."""
    client = start_platform()
    first = client.create()
    with ssh(first) as connection:
        execute(connection, "echo saved > work/checkpoint")
    client.stop(first["id"])
    client.call("POST", f"/v1/instances/{first['id']}/start")
    second = client.wait(first["id"], "running")
    assert second["ssh"]["port"] != first["ssh"]["port"]
    assert second["ssh"]["host_key"] == first["ssh"]["host_key"]
    with ssh(second) as connection:
        assert execute(connection, "cat work/checkpoint")[1] == b"saved\n"
    client.stop(first["id"])
    disk = Path(first["work_dir"]).parent
    (disk / "locked" / "inner").mkdir(parents=True)
    (disk / "locked").chmod(0)
    client.call("DELETE", f"/v1/instances/{first['id']}")
    assert not disk.exists()


def test_shutdown_inside_reaches_only_the_platform(start_platform: StartPlatform) -> None:
    """`shutdown -h now` in a guest turns off this instance; the machine it runs on is not asked."""
    client = start_platform()
    instance, other = client.create(), client.create()
    disk = Path(instance["work_dir"]).parent
    with ssh(instance) as connection:
        look_up = "; ".join(f"command -v {one}" for one in SHADOWED)
        _, found, _ = execute(connection, look_up)
        assert found.decode().split() == [f"{disk}/bin/{one}" for one in SHADOWED]
        # Only ever typed once it is certain what it is.
        guarded = 'test "$(command -v shutdown)" = "$HOME/bin/shutdown" && shutdown -h now'
        connection.exec_command(guarded)
        client.wait(instance["id"], "stopped")
    (call,) = client.truth()["stop_calls"]
    assert (call["instance"], call["via"], call["ignored"]) == (
        instance["id"],
        "power_off",
        False,
    )
    assert client.get(other["id"])["status"] == "running"


def test_login_shell_finds_our_shutdown_too(start_platform: StartPlatform) -> None:
    """A shell that reads the machine's own profile still has the instance's commands first."""
    client = start_platform()
    instance = client.create()
    with ssh(instance) as connection:
        for shell in ("sh", "bash"):
            _, found, _ = execute(connection, f"{shell} -lc 'command -v shutdown'")
            assert found.decode().strip() == f"{Path(instance['work_dir']).parent}/bin/shutdown"


def test_shadowed_commands_call_nothing_but_the_platform(start_platform: StartPlatform) -> None:
    """Every one of them is the same few lines, and none names a program of the machine's."""
    client = start_platform()
    instance = client.create()
    disk = Path(instance["work_dir"]).parent
    interpreter, program = sys.executable, disk / ".localcloud" / "power_off.py"
    for name in (*SHADOWED, "localcloud-power-off"):
        text = (disk / "bin" / name).read_text()
        assert text == f'#!/bin/sh\nexec {interpreter} -I -S {program} "$0" "$@"\n'
    for word in ("subprocess", "system(", "exec", "popen", "spawn", "/sbin"):
        assert word not in program.read_text()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("shutdown -c", b"only turns the instance off"),
        ("systemctl status sshd", b"only turns the instance off"),
        ("init 3", b"only turns the instance off"),
    ],
)
def test_shadowed_command_that_turns_nothing_off(
    shared: Client, instance: dict[str, Any], command: str, says: bytes
) -> None:
    """What does not ask for power off is refused, and the instance stays on."""
    name = command.split(maxsplit=1)[0]
    guard = f'test "$(command -v {name})" = "$HOME/bin/{name}" && '
    with ssh(instance) as connection:
        status, _, errors = execute(connection, guard + command)
    assert status == 1
    assert says in errors
    assert shared.get(instance["id"])["status"] == "running"


def test_power_off_that_the_platform_refuses_says_so(
    shared: Client, instance: dict[str, Any]
) -> None:
    """A guest learns that its power-off was not accepted, and nothing else is tried."""
    shared.call("PUT", "/admin/faults", admin=True, json={"http_500": {"routes": ["power_off"]}})
    with ssh(instance) as connection:
        status, _, errors = execute(connection, "localcloud-power-off")
        shared.call("PUT", "/admin/faults", admin=True, json={"http_500": None})
        gone = "LOCALCLOUD_POWER_OFF_URL=http://127.0.0.1:1/x localcloud-power-off"
        unanswered, _, text = execute(connection, gone)
    assert (status, unanswered) == (1, 1)
    assert b"answered 500" in errors
    assert b"did not answer" in text


@pytest.mark.skipif(not processes.IS_LINUX, reason="prctl is Linux's")
def test_guest_has_given_up_the_reboot_call(shared: Client, instance: dict[str, Any]) -> None:
    """No guest process can gain rights, nor, even as root, call reboot(2)."""
    with ssh(instance) as connection:
        _, output, _ = execute(connection, "cat /proc/self/status")
    fields = dict(line.split(":\t", 1) for line in output.decode().splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert not int(fields["CapBnd"], 16) & (1 << 22)


def test_instance_that_loses_its_process_is_stopped(start_platform: StartPlatform) -> None:
    """A guest that kills its own SSH server has turned itself off, with everything it ran."""
    client = start_platform()
    instance = client.create()
    pids = hide(instance, cleared=False)
    with ssh(instance) as connection:
        connection.exec_command("kill -9 $PPID")
        stopped = client.wait(instance["id"], "stopped")
    assert stopped["charging"] is False
    assert none_alive(pids)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "parent", "kill"])
def test_platform_leaves_no_process(start_platform: StartPlatform, how: str) -> None:
    """However the platform ends, nothing that its instances ran is left."""
    reader, writer = os.pipe()
    client = start_platform(parent_fd=reader)
    os.close(reader)
    instance = client.create()
    pids = hide(instance) + [one["pid"] for one in client.truth()["instances"][0]["processes"]]
    process = client.running.process
    if how == "parent":
        os.close(writer)
    else:
        process.send_signal({"kill": signal.SIGKILL}.get(how) or signal.Signals[how])
    status = process.wait(10)
    if how == "kill":
        poll(lambda: none_alive(pids), "the end of every process")
    assert none_alive(pids)
    assert status == (-signal.SIGKILL if how == "kill" else 0)
    if how != "parent":
        os.close(writer)


def test_home_belongs_to_one_platform(start_platform: StartPlatform, tmp_path: Path) -> None:
    """A second platform on the same home says which one is there, with status 2."""
    client = start_platform()
    with pytest.raises(launch.LaunchError) as refused:
        launch.start(tmp_path / "home")
    assert f"already runs on {tmp_path / 'home'}" in str(refused.value)
    assert f"pid {client.running.process.pid}" in str(refused.value)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """A platform that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "costguard.localcloud", *options],
        env={**os.environ, "PYTHONPATH": str(launch.PACKAGE_ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_port_in_use_is_told(tmp_path: Path) -> None:
    """A port that somebody else has: which, and what to do, with status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("--home", str(tmp_path), "--port", port)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"port {port} on 127.0.0.1 cannot be used" in ended.stderr
    assert "--port" in ended.stderr


@pytest.mark.parametrize("where", ["file/home", "/sys/localcloud-home"])
def test_home_that_cannot_be_written_is_told(tmp_path: Path, where: str) -> None:
    """A home below a file, or on a file system that takes nothing: one clear line, status 2."""
    (tmp_path / "file").touch()
    ended = run("--home", str(tmp_path / where))
    assert ended.returncode == 2
    assert f"cannot write to {tmp_path / where}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_database_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """One clear line, status 2."""
    (tmp_path / "localcloud.db").mkdir()
    ended = run("--home", str(tmp_path))
    assert ended.returncode == 2
    assert f"cannot write to {tmp_path}" in ended.stderr


def test_parent_fd_that_is_not_open_is_told(tmp_path: Path) -> None:
    """A descriptor that was not handed down: one clear line, status 2."""
    ended = run("--home", str(tmp_path), "--parent-fd", "77")
    assert ended.returncode == 2
    assert "--parent-fd 77" in ended.stderr


def test_endpoint_is_for_its_owner_alone_and_goes_with_the_platform(
    start_platform: StartPlatform, tmp_path: Path
) -> None:
    """endpoint.json: mode 0600, url, pid and tokens; gone once the platform has ended."""
    client = start_platform()
    path = tmp_path / "home" / "endpoint.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    endpoint = json.loads(path.read_text())
    assert endpoint["url"].startswith("http://127.0.0.1:")
    assert endpoint["pid"] == client.running.process.pid
    assert endpoint["token"] != endpoint["admin_token"]
    assert client.running.stop() == 0
    assert not path.exists()


def test_idle_platform_ends_and_a_busy_one_does_not(start_platform: StartPlatform) -> None:
    """--exit-when-idle-s counts only while nothing is on and nobody asks."""
    client = start_platform("--exit-when-idle-s", "0.3")
    instance = client.create()
    begun = time.monotonic()
    while time.monotonic() - begun < 0.6:  # longer than the limit, without a request
        time.sleep(0.05)
    assert client.running.process.poll() is None
    client.stop(instance["id"])
    assert client.running.process.wait(10) == 0


def test_lock_is_given_back(start_platform: StartPlatform, tmp_path: Path) -> None:
    """A home can be used again once its platform has ended."""
    start_platform().running.stop()
    with (tmp_path / "home" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_secret_is_on_a_command_line(start_platform: StartPlatform) -> None:
    """Neither tokens nor keys can be read in the list of processes."""
    client = start_platform()
    client.create()
    pids = [client.running.process.pid]
    pids += [one["pid"] for one in client.truth()["instances"][0]["processes"]]
    lines = " ".join(processes.command_of(pid) for pid in pids)
    assert "costguard.localcloud.sshd" in lines
    for secret in (client.running.token, client.running.admin_token, "PRIVATE"):
        assert secret not in lines


def test_timer_of_a_real_instance_fires(start_platform: StartPlatform) -> None:
    """On the real clock: never before its time, and soon after it."""
    client = start_platform()
    at_ms = int(time.time() * 1_000) + 1_500
    made = client.call("POST", "/v1/instances", json=order(stop_at=at_ms))
    client.wait(made["id"], "running")
    stopped = client.wait(made["id"], "stopped")
    assert 0 <= stopped["charged_until_ms"] - at_ms < 3_000
