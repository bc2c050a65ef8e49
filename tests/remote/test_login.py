from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from costguard.remote.ssh import (
    AuthRefusedError,
    HostKeyChangedError,
    UnreachableError,
    connect,
    fingerprint,
    parse_host_key,
    scan_host_key,
    shown_host_key,
)
from tests.agent.harness import wait_until
from tests.remote.ssh_server import new_host_key, public_line
from tests.remote.world import absolute

if TYPE_CHECKING:
    from tests.remote.ssh_server import Machine
    from tests.remote.world import World

WORD = "pl4nted-passw0rd"


def test_the_password_that_the_platform_tells_lets_us_in(machine: Machine) -> None:
    """And no key of ours is needed for it."""
    machine.password = WORD
    machine.key_path.unlink()
    connect(machine.target(password=SecretStr(WORD))).close()


def test_a_wrong_password_is_refused_and_never_shown(machine: Machine) -> None:
    """Neither in the error nor where the target is printed."""
    machine.password = "another"
    target = machine.target(password=SecretStr(WORD))
    with pytest.raises(AuthRefusedError, match="with the password") as refused:
        connect(target)
    assert WORD not in f"{refused.value!r} {target!r} {target}"


def test_without_a_key_nothing_is_believed(machine: Machine) -> None:
    """No host key and no permission for a first use: not one word is said to it."""
    with pytest.raises(HostKeyChangedError, match="no host key is pinned"):
        connect(machine.target(host_keys=()))
    assert machine.connections == 0


def test_a_first_use_is_told_with_its_fingerprint_and_pinned(
    machine: Machine, world: World
) -> None:
    """Once; from then on another key ends the line as any changed key does."""
    daemon = world.run(
        world.plan(machine.target(host_keys=(), trusts_first=True), absolute(machine))
    )
    told = daemon.wait_for("host_key")
    assert told["line"] == public_line(machine.host_key)
    assert told["fingerprint"] == machine.host_key.fingerprint
    daemon.wait_for("link", state="attached")
    machine.host_key = new_host_key()
    machine.cut()
    wait_until(lambda: daemon.states()[-1] == "refused", "the end of the line")
    assert daemon.of("link")[-1]["code"] == "host_key_changed"
    assert len(daemon.of("host_key")) == 1


def test_a_key_can_be_looked_at_without_logging_in(machine: Machine) -> None:
    """For a person to compare; the fingerprint is as ssh-keygen prints it."""
    line = scan_host_key("127.0.0.1", machine.port)
    assert line == public_line(machine.host_key)
    assert fingerprint(line) == parse_host_key(line).fingerprint
    assert fingerprint(line).startswith("SHA256:")
    machine.close()
    with pytest.raises(UnreachableError):
        scan_host_key("127.0.0.1", machine.port, 0.5)


def test_the_key_of_an_open_connection_is_the_one_that_it_was_made_with(machine: Machine) -> None:
    """As a line for known_hosts."""
    client = connect(machine.target())
    assert shown_host_key(client) == public_line(machine.host_key)
    client.close()
