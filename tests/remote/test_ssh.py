from __future__ import annotations

import json
import logging
import socket
import stat
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import paramiko
import pytest

from costguard.remote.ssh import (
    AuthRefusedError,
    HostKeyChangedError,
    RemoteFailedError,
    UnreachableError,
    connect,
    make_client_key,
    run,
)
from tests.remote.ssh_server import new_host_key, public_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine, Proxy

HOSTILE = ["-rf", "a b", "it's", 'say "hi"', "$(id)", "`id`", "new\nline", "线", "~", "*", "", ";x"]
SHOW = "import json, sys; print(json.dumps(sys.argv[1:]))"


def test_every_argument_arrives_as_it_was(any_machine: Machine | OpenSsh) -> None:
    """Quotes, newlines, substitutions, leading dashes and nothing at all."""
    with closing(connect(any_machine.target())) as client:
        done = run(client, [sys.executable, "-c", SHOW, *HOSTILE])
    assert json.loads(done.check("show").stdout) == HOSTILE


def test_input_output_and_status(any_machine: Machine | OpenSsh) -> None:
    """All three, and a failure that quotes what the command said."""
    script = "import sys; d = sys.stdin.read(); print(d.upper()); sys.exit('no ' + d)"
    with closing(connect(any_machine.target())) as client:
        done = run(client, [sys.executable, "-c", script], stdin=b"disk")
    assert (done.status, done.stdout) == (1, b"DISK\n")
    with pytest.raises(RemoteFailedError, match="step ended with status 1: no disk"):
        done.check("step")


def test_much_output_on_both_streams_does_not_jam(machine: Machine) -> None:
    """More than a window on each, at once."""
    script = (
        "import sys\n"
        "for _ in range(300): sys.stdout.write('o' * 9999); sys.stderr.write('e' * 9999)"
    )
    with closing(connect(machine.target())) as client:
        done = run(client, [sys.executable, "-c", script])
    assert (len(done.stdout), len(done.stderr)) == (300 * 9999, 300 * 9999)


def test_another_host_key_is_refused(any_machine: Machine | OpenSsh) -> None:
    """With the fingerprint that was shown."""
    pinned = public_line(new_host_key())
    with pytest.raises(HostKeyChangedError, match="SHA256:"):
        connect(any_machine.target(host_keys=(pinned,)))


def test_a_host_key_of_another_type_is_refused(machine: Machine) -> None:
    """Only the types of the pinned keys are ever negotiated."""
    pinned = public_line(paramiko.ECDSAKey.generate())
    with pytest.raises(HostKeyChangedError, match="pinned type"):
        connect(machine.target(host_keys=(pinned,)))


def test_one_of_several_pinned_keys_is_enough(machine: Machine) -> None:
    """Whatever their order."""
    keys = (public_line(paramiko.ECDSAKey.generate()), public_line(machine.host_key))
    connect(machine.target(host_keys=keys)).close()


@pytest.mark.parametrize("keys", [(), ("rubbish",), ("ssh-ed25519 !!!",), ("ssh-ed25519 AAAA",)])
def test_without_a_usable_pinned_key_nothing_is_contacted(
    machine: Machine, keys: tuple[str, ...]
) -> None:
    """No first use is believed here."""
    with pytest.raises(HostKeyChangedError):
        connect(machine.target(host_keys=keys))
    assert machine.connections == 0


def test_a_key_that_is_not_known_there_is_refused(
    any_machine: Machine | OpenSsh, tmp_path: Path
) -> None:
    """A refusal, not a broken connection."""
    make_client_key(tmp_path / "stranger")
    with pytest.raises(AuthRefusedError, match="does not let us in with the key"):
        connect(any_machine.target(client_key_path=tmp_path / "stranger"))


def test_a_missing_client_key_is_said(machine: Machine, tmp_path: Path) -> None:
    """With its path, before anything is contacted."""
    with pytest.raises(AuthRefusedError, match="no_such_key"):
        connect(machine.target(client_key_path=tmp_path / "no_such_key"))
    assert machine.connections == 0


def test_a_closed_port_is_unreachable(machine: Machine) -> None:
    """Worth trying again: instances open theirs late."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match="refused"):
        connect(machine.target(port=port))


def test_a_server_that_says_nothing_is_unreachable(machine: Machine) -> None:
    """After the time for the banner; it never hangs."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(UnreachableError),
    ):
        connect(machine.target(port=listener.getsockname()[1]), timeout_s=0.3)


def test_a_log_in_that_breaks_off_is_no_refusal(
    machine: Machine, make_proxy: Callable[[int], Proxy]
) -> None:
    """A line cut during the key exchange or the log-in refuses nobody."""
    proxy = make_proxy(machine.port)
    for cut_after in (10, 1500):
        proxy.passed, proxy.cut_after = 0, cut_after
        with pytest.raises(UnreachableError):
            connect(machine.target(port=proxy.port), timeout_s=5)


def test_a_command_that_hangs_is_given_up(machine: Machine) -> None:
    """After its time, and not by waiting for ever."""
    with (
        closing(connect(machine.target())) as client,
        pytest.raises(UnreachableError, match="no answer within"),
    ):
        run(client, ["sleep", "30"], timeout_s=0.3)


def test_a_connection_that_breaks_ends_the_command(machine: Machine) -> None:
    """At once."""
    with closing(connect(machine.target())) as client:
        timer = threading.Timer(0.2, machine.cut)
        timer.start()
        with pytest.raises(UnreachableError):
            run(client, ["sleep", "30"], timeout_s=20).check("sleep")
        timer.join()


def test_a_client_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    """Ed25519, 0600, and the same public line each time."""
    path = tmp_path / "key"
    first = make_client_key(path)
    assert first.startswith("ssh-ed25519 AAAA")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert make_client_key(path) == first
    assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


def test_two_that_make_a_key_at_once_agree(tmp_path: Path) -> None:
    """Both get the one that is in the file."""
    lines: list[str] = []
    threads = [
        threading.Thread(target=lambda: lines.append(make_client_key(tmp_path / "key")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(lines)) == 1


def test_failures_do_not_write_to_the_screen(
    machine: Machine,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What paramiko logs of its own stays away: our error says it once."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", seen.append)
    logging.getLogger().addHandler(handler)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def hang_up() -> None:
                listener.accept()[0].close()

            timer = threading.Timer(0.1, hang_up)
            timer.start()
            with pytest.raises(UnreachableError):
                connect(machine.target(port=port), timeout_s=2)
            timer.join()
    finally:
        logging.getLogger().removeHandler(handler)
    assert capfd.readouterr() == ("", "")
    assert not seen


def test_the_quicker_cipher_is_asked_for_first(any_machine: Machine | OpenSsh) -> None:
    """AES-GCM where both sides have it; nothing is taken off the list for it."""
    with closing(connect(any_machine.target())) as client:
        transport = client.get_transport()
        assert transport is not None
        assert "-gcm@" in transport.remote_cipher  # type: ignore[attr-defined]  # not in the stubs
        assert "aes256-ctr" in transport.get_security_options().ciphers
