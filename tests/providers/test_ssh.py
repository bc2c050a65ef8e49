from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from costguard.core.power import Power
from costguard.core.tariff import Tariff
from costguard.errors import UserError
from costguard.providers import open_provider
from costguard.providers.base import Absent, Refused, Unclear
from costguard.providers.shared import ssh_line
from costguard.providers.ssh import SshBox
from tests.providers.rigs import NOW

if TYPE_CHECKING:
    from pathlib import Path

CONSOLE = "https://console.example/box1"


def box(**settings: Any) -> SshBox:
    """A machine with these fields in its table."""
    usual = {
        "ssh": "ssh -p 12345 root@127.0.0.1",
        "price_yuan_per_hour": 15,
        "console_url": CONSOLE,
        "command_limit_s": 5,
    }
    return SshBox("box1", {**usual, **settings})


def power_of(**settings: Any) -> Power:
    """What is read of it."""
    return box(**settings).read("box1", NOW).read.power


@pytest.mark.parametrize(
    ("command", "power"),
    [
        ("echo running", Power.RUNNING),
        ("printf stopped", Power.STOPPED),
        ("echo stopped; exit 1", Power.UNKNOWN),
        ("echo Stopped", Power.UNKNOWN),
        ("echo ' stopped'", Power.UNKNOWN),
        ("echo stopped; echo", Power.UNKNOWN),
        ("echo not stopped", Power.UNKNOWN),
        ("echo stopped >&2", Power.UNKNOWN),
        ("no-such-command-here", Power.UNKNOWN),
        ("true", Power.UNKNOWN),
        ("yes stopped | head -c 100000", Power.UNKNOWN),
    ],
)
def test_only_the_exact_word_is_believed(command: str, power: Power) -> None:
    """Exit 0 and `running` or `stopped`: a meter hangs on it."""
    assert power_of(power_state_command=command) is power


def test_a_command_that_does_not_end_is_unknown_and_ended_with_all_it_started(
    tmp_path: Path,
) -> None:
    """What it had said by then counts for nothing."""
    pid_file = tmp_path / "pid"
    command = f"sleep 600 & echo $! > {pid_file}; echo stopped; wait"
    assert power_of(power_state_command=command, command_limit_s="0.3") is Power.UNKNOWN
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and _state(pid) != "Z":  # noqa: PTH110  (a process)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123  (a process)
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_command_that_leaves_something_running_has_ended(tmp_path: Path) -> None:
    """A console's tool may start a helper that holds the pipe open."""
    pid_file = tmp_path / "pid"
    command = f"sleep 600 & echo $! > {pid_file}; echo stopped"
    try:
        assert power_of(power_state_command=command, command_limit_s=600) is Power.STOPPED
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_a_command_that_prints_without_end_is_ended() -> None:
    """Memory is not its to fill: not the time ends it here."""
    assert power_of(power_state_command="yes stopped", command_limit_s=600) is Power.UNKNOWN


def test_without_a_command_an_ssh_port_that_answers_is_running() -> None:
    """And one that does not is unknown: a cut line is no proof that a meter stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert power_of(ssh=f"ssh -p {port} root@127.0.0.1") is Power.RUNNING
    view = box(ssh=f"ssh -p {port} root@127.0.0.1").read("box1", NOW)
    assert view.read.power is Power.UNKNOWN
    assert view.read.is_charging
    assert view.status == "its SSH port does not answer"


def test_its_own_commands_pause_and_resume_it(tmp_path: Path) -> None:
    """They run here; what they did is read back."""
    state = tmp_path / "state"
    state.write_text("running")
    own = box(
        power_state_command=f"cat {state}",
        pause_command=f"printf stopped > {state}",
        resume_command=f"printf running > {state}",
    )
    assert own.facts.can_stop
    assert own.facts.can_resume
    own.stop("box1")
    off = own.read("box1", NOW)
    assert (off.read.power, off.ssh) == (Power.STOPPED, None)
    own.start("box1")
    assert own.read("box1", NOW).read.power is Power.RUNNING


def test_without_a_pause_command_only_a_person_can_stop_it() -> None:
    """The facts say so, and the refusal says where."""
    own = box()
    assert not own.facts.can_stop
    assert own.facts.timer_kind == "none"
    with pytest.raises(Refused, match=f"only be stopped by you, at {CONSOLE}.*confirm-stopped"):
        own.stop("box1")
    with pytest.raises(Refused, match="only be switched on by you"):
        own.start("box1")


@pytest.mark.parametrize("command", ["exit 3", "sleep 600"])
def test_a_pause_that_failed_or_did_not_end_is_unclear(command: str) -> None:
    """It may have had its effect all the same; its output is not shown."""
    own = box(pause_command=f"echo secret-in-output; {command}", command_limit_s="0.3")
    with pytest.raises(Unclear) as unclear:
        own.stop("box1")
    assert "secret-in-output" not in str(unclear.value)


def test_commands_do_not_get_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is theirs in the environment they keep."""
    monkeypatch.setenv("COSTGUARD_AUTODL_TOKEN", "planted")
    monkeypatch.setenv("THEIR_TOKEN", "kept")
    seen = tmp_path / "environment"
    box(pause_command=f"env > {seen}").stop("box1")
    assert "planted" not in seen.read_text()
    assert "THEIR_TOKEN=kept" in seen.read_text()


def test_how_to_log_in_is_as_the_config_says(tmp_path: Path) -> None:
    """Password or key, host key, and a place to work in."""
    own = box(
        ssh="ssh -p 2222 ubuntu@127.0.0.1",
        power_state_command="echo running",
        password=SecretStr("box-word"),
        host_key="ssh-ed25519 AAAA",
        key_file=str(tmp_path / "key"),
    )
    ssh = own.read("box1", NOW).ssh
    assert ssh is not None
    assert (ssh.host, ssh.port, ssh.user) == ("127.0.0.1", 2222, "ubuntu")
    assert ssh.host_keys == ("ssh-ed25519 AAAA",)
    assert ssh.key_file == tmp_path / "key"
    assert ssh.work_dir.endswith("/ubuntu/costguard")
    assert "box-word" not in f"{ssh!r} {own!r}"


def test_the_price_is_the_configs() -> None:
    """With its quantum; a workstation of one's own costs nothing, and must say so."""
    own = box(price_yuan_per_hour="14.5", billing="hour", paused_price_yuan_per_hour="0.1")
    assert own.quote(None).tariff == Tariff(14_500_000, 3_600, 100_000)
    assert own.offers(1)[0].tariff == own.quote("RTX 3090").tariff
    assert own.offers(2) == ()
    assert box(price_yuan_per_hour=0).quote(None).tariff.price_micros_per_hour == 0
    with pytest.raises(UserError, match="what does this machine cost"):
        SshBox("box1", {"ssh": "ssh root@127.0.0.1"})


def test_machines_are_neither_made_nor_given_back() -> None:
    """Each refusal says what to do."""
    own = box()
    with pytest.raises(Refused, match='id = "box1"'):
        own.create(None, NOW)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=CONSOLE):
        own.release("box1")
    assert own.list_tagged("costguard-", NOW) == ()
    assert own.balance_micros() is None
    assert own.bill_micros("box1") is None
    assert own.arm_timer("box1", 1) is None
    for nothing in (own.start, own.stop, own.release):
        with pytest.raises(Absent):
            nothing("box2")


def test_power_off_from_inside_is_the_users_command_and_not_proven() -> None:
    """There is no default: the host may be a workstation."""
    assert box().facts.in_guest_stop is None
    own = box(in_guest_stop_command="their-off").facts
    assert own.in_guest_stop == ("sh", "-c", "their-off")
    assert not own.in_guest_stop_proven


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ssh -p 12345 root@host.example", ("host.example", 12345, "root")),
        ("ssh root@host.example -p 23", ("host.example", 23, "root")),
        ("ssh -p23 -o StrictHostKeyChecking=no ubuntu@h", ("h", 23, "ubuntu")),
        ("me@h", ("h", 22, "me")),
        ("h", ("h", 22, "root")),
    ],
)
def test_lines_of_consoles_are_understood(line: str, expected: tuple[str, int, str]) -> None:
    """However they put them."""
    assert ssh_line(line) == expected


@pytest.mark.parametrize("line", ["", "ssh", "ssh -p x root@h", "ssh -p 99999 root@h", "ssh root@"])
def test_lines_that_are_none_are_refused(line: str) -> None:
    """With the place that they stand in."""
    with pytest.raises(UserError, match="ssh -p 12345") as refused:
        SshBox("box1", {"ssh": line, "price_yuan_per_hour": 1})
    assert refused.value.where == "[providers.ssh.box1]"


def test_a_box_is_opened_by_its_name() -> None:
    """`ssh.box1` is the machine of that table."""
    table = {"ssh": "ssh root@127.0.0.1", "price_yuan_per_hour": 1}
    assert open_provider("ssh.box1", table).facts.name == "ssh.box1"
