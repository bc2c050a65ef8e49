from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
import pytest

from costguard.localcloud.hostkeys import generate
from tests.localcloud.world import DEADLINE_S, execute, host_key_of, is_alive, poll, ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def connection(instance: dict[str, Any]) -> Iterator[paramiko.SSHClient]:
    """A connection to the shared instance."""
    with ssh(instance) as client:
        yield client


@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 0", 0), ("exit 75", 75), ("no-such-command", 127), ("kill -TERM $$", 143)],
)
def test_exit_status_comes_back(connection: paramiko.SSHClient, command: str, status: int) -> None:
    """A command's own status, the shell's for an unknown one, 128 + n for a signal n."""
    assert execute(connection, command)[0] == status


def test_output_and_errors_are_kept_apart(connection: paramiko.SSHClient) -> None:
    """Standard output and standard error arrive on their own streams."""
    assert execute(connection, "printf out; printf err >&2") == (0, b"out", b"err")


def test_input_is_piped_to_its_end(connection: paramiko.SSHClient) -> None:
    """The command sees every byte of its input, whatever the bytes are, and then the end."""
    data = bytes(range(256)) * 8_192
    assert execute(connection, "cat", data) == (0, data, b"")


def test_large_output_waits_for_its_reader(connection: paramiko.SSHClient) -> None:
    """Output far above the channel's window arrives whole, though it is read late."""
    size = 20_000_000
    _, stdout, _ = connection.exec_command(f"head -c {size} /dev/zero; echo done >&2")
    channel = stdout.channel
    poll(lambda: channel.in_buffer and len(channel.in_buffer) > 1_000_000)
    assert not channel.exit_status_ready()
    assert len(stdout.read()) == size
    assert channel.recv_exit_status() == 0


def test_input_that_nobody_reads_is_thrown_away(connection: paramiko.SSHClient) -> None:
    """A command that does not read its input does not block who writes it."""
    wait = "rm -f flag; exec 0<&-; while [ ! -e flag ]; do sleep 0.01; done; echo ok"
    stdin, stdout, _ = connection.exec_command(wait, timeout=DEADLINE_S)
    stdin.write(b"x" * 5_000_000)  # more than window and pipe can hold
    execute(connection, "touch flag")
    assert stdout.read() == b"ok\n"


def test_many_channels_at_once(connection: paramiko.SSHClient) -> None:
    """Thirty commands on one connection run side by side, each with its own data."""
    results: dict[int, tuple[int, bytes, bytes]] = {}

    def run(number: int) -> None:
        data = os.urandom(100_000)
        expected = hashlib.sha256(data).hexdigest().encode()
        status, output, errors = execute(connection, "sha256sum", data)
        results[number] = (status, output[:64], errors)
        assert output[:64] == expected

    threads = [threading.Thread(target=run, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(30))
    assert {(status, errors) for status, _, errors in results.values()} == {(0, b"")}


def test_quick_commands_never_lose_their_answer(connection: paramiko.SSHClient) -> None:
    """A command that ends at once still answers its request before it closes its channel."""
    assert [execute(connection, ":")[0] for _ in range(100)] == [0] * 100


def test_closing_the_channel_ends_nothing(connection: paramiko.SSHClient) -> None:
    """What was started with setsid lives on after its channel and its connection are closed."""
    status, output, _ = execute(connection, "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!")
    connection.close()
    assert status == 0
    pid = int(output)
    poll(lambda: is_alive(pid))


def test_command_has_a_session_of_its_own(connection: paramiko.SSHClient) -> None:
    """A command leads its own session and group, so that a signal to its group is for it alone."""
    _, output, _ = execute(connection, "echo $$; cut -d' ' -f5,6 /proc/$$/stat")
    assert len(set(output.split())) == 1


def test_exit_status_does_not_wait_for_the_background(connection: paramiko.SSHClient) -> None:
    """A child that holds the output open delays the channel's end, not the exit status."""
    _, stdout, _ = connection.exec_command("sleep 600 & echo $!; exit 3")
    assert stdout.channel.recv_exit_status() == 3
    assert is_alive(int(stdout.readline()))
    assert not stdout.channel.eof_received
    stdout.channel.close()


def test_command_with_a_zero_byte_is_refused(connection: paramiko.SSHClient) -> None:
    """What cannot be started says so and has the status 127."""
    status, _, errors = execute(connection, "echo a\0b")
    assert status == 127
    assert b"cannot start" in errors


def test_environment_holds_nothing_of_the_host(
    connection: paramiko.SSHClient, instance: dict[str, Any]
) -> None:
    """The guest's whole environment is what is meant for it, and it starts on its disk."""
    _, output, _ = execute(connection, "env -0; pwd")
    *entries, folder = output.decode().split("\0")
    environment = dict(entry.split("=", 1) for entry in entries)
    disk = instance["work_dir"].removesuffix("/work")
    assert folder.strip() == environment["HOME"] == disk
    assert environment["LOCALCLOUD_INSTANCE"] == instance["id"]
    assert environment["PATH"].startswith(f"{disk}/bin:")
    assert set(environment) - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "PATH",
        "LOCALCLOUD_INSTANCE",
        "LOCALCLOUD_POWER_OFF_URL",
        "LOCALCLOUD_TOKEN_FILE",
    }


def test_nothing_of_ours_leaks_into_the_guest(connection: paramiko.SSHClient) -> None:
    """The guest's `python3` is the platform's own, and imports from where it would by itself."""
    code = "import sys; print(sys.executable, sys.path)"
    python = f"{Path(sys.executable).parent}/python3"
    _, output, _ = execute(connection, f'cd / && python3 -c "{code}"')
    alone = subprocess.run([python, "-c", code], env={}, cwd="/", capture_output=True, check=True)
    assert output == alone.stdout


def test_another_key_is_refused(instance: dict[str, Any]) -> None:
    """Only the key given at create opens the instance."""
    with pytest.raises(paramiko.AuthenticationException), ssh(instance, key=generate()[0]):
        pass


def test_another_user_is_refused(instance: dict[str, Any]) -> None:
    """There is root and nobody else."""
    with pytest.raises(paramiko.AuthenticationException), ssh(instance, user="ubuntu"):
        pass


def test_password_is_refused(instance: dict[str, Any]) -> None:
    """There are no passwords."""
    transport = paramiko.Transport(("127.0.0.1", instance["ssh"]["port"]))
    try:
        transport.connect(hostkey=host_key_of(instance))
        with pytest.raises(paramiko.BadAuthenticationType) as refused:
            transport.auth_password("root", "root")
        assert refused.value.allowed_types == ["publickey"]
    finally:
        transport.close()


def test_another_host_key_is_noticed(instance: dict[str, Any]) -> None:
    """The server proves the key that the platform told: another pin does not match it."""
    other = paramiko.ECDSAKey.generate()
    with pytest.raises(paramiko.SSHException), ssh(instance, host_key=other):
        pass


@pytest.mark.parametrize("what", ["pty", "shell", "x11", "forward", "listen"])
def test_what_is_not_offered_is_refused(connection: paramiko.SSHClient, what: str) -> None:
    """No terminal, no shell, no display, no forwarding of any kind."""
    transport = connection.get_transport()
    assert transport is not None
    channel = transport.open_session()
    attempts: dict[str, Callable[[], object]] = {
        "pty": channel.get_pty,
        "shell": channel.invoke_shell,
        "x11": channel.request_x11,
        "forward": lambda: transport.open_channel(
            "direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1)
        ),
        "listen": lambda: transport.request_port_forward("127.0.0.1", 0),
    }
    with pytest.raises(paramiko.SSHException):
        attempts[what]()


def test_second_command_on_a_channel_is_refused(connection: paramiko.SSHClient) -> None:
    """One channel runs one command."""
    transport = connection.get_transport()
    assert transport is not None
    channel = transport.open_session()
    channel.exec_command("sleep 5")
    with pytest.raises(paramiko.SSHException):
        channel.exec_command("echo no")


def test_keepalive_is_answered(connection: paramiko.SSHClient) -> None:
    """Keepalives leave the connection as it is."""
    transport = connection.get_transport()
    assert transport is not None
    transport.global_request("keepalive@openssh.com", wait=True)
    assert execute(connection, "echo on")[1] == b"on\n"


def test_orphans_are_reaped(connection: paramiko.SSHClient) -> None:
    """A double-forked child that ends leaves no zombie behind."""
    _, output, _ = execute(connection, "sh -c 'sleep 0.01 & echo $!' ")
    poll(lambda: not Path(f"/proc/{int(output)}").exists())
