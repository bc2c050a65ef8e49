"""A command on an instance with our own streams: pipes, a real terminal, and its ends."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from costguard.remote.ssh import UnreachableError, connect
from costguard.remote.terminal import talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from costguard.remote.ssh import SshTarget
    from tests.remote.openssh import OpenSsh
    from tests.remote.ssh_server import Machine, Proxy

ON_A_TERMINAL = """
import sys
from pathlib import Path
from costguard.remote.ssh import SshTarget, connect
from costguard.remote.terminal import talk
host, port, user, key, host_key, command = sys.argv[1:]
client = connect(SshTarget(host, int(port), user, (host_key,), Path(key)))
status = talk(client, command, lambda: False)
client.close()
sys.exit(status)
"""


@contextmanager
def typed(text: bytes, *, ends: bool = True) -> Iterator[int]:
    """A pipe that holds this text; its end follows, or never comes."""
    source, sink = os.pipe()
    os.write(sink, text)
    if ends:
        os.close(sink)
    yield source
    os.close(source)
    if not ends:
        os.close(sink)


def test_what_is_piped_in_goes_there_and_what_it_says_comes_here(
    any_machine: Machine | OpenSsh, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both outputs, each on its own, and the exit status."""
    command = "read a; echo got $a; cat >&2; exit 3"
    with closing(connect(any_machine.target())) as client, typed("你好\nrest".encode()) as stdin:
        assert talk(client, command, lambda: False, stdin=stdin) == 3
    told = capfd.readouterr()
    assert (told.out, told.err) == ("got 你好\n", "rest")


def test_all_of_a_long_output_comes_before_the_status(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing of what was written last is lost; without a source nothing is read."""
    script = f"{sys.executable} -c \"print('o' * 3_000_000)\""
    with closing(connect(machine.target())) as client:
        assert talk(client, script, lambda: False, stdin=None) == 0
    assert len(capfd.readouterr().out) == 3_000_001


def test_it_is_over_when_the_visit_is(any_machine: Machine | OpenSsh) -> None:
    """Whatever the command does: within a moment."""
    until_s = time.monotonic() + 0.3
    with closing(connect(any_machine.target())) as client, typed(b"", ends=False) as stdin:
        assert talk(client, "sleep 30", lambda: time.monotonic() > until_s, stdin=stdin) is None
    assert time.monotonic() < until_s + 5


def test_a_line_that_breaks_is_told(machine: Machine, make_proxy: Callable[[int], Proxy]) -> None:
    """Not taken for the command's end."""
    proxy = make_proxy(machine.port)
    with closing(connect(machine.target(port=proxy.port))) as client:
        threading.Timer(0.3, proxy.cut).start()
        with pytest.raises(UnreachableError, match="broke"):
            talk(client, "sleep 30", lambda: False, stdin=None)


class Terminal:
    """A process of ours on a pseudo-terminal of 100 by 40."""

    def __init__(self, target: SshTarget, command: str) -> None:
        self.master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        argv = [target.host, str(target.port), target.user, str(target.client_key_path)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *argv, target.host_keys[0], command],
            stdin=self._slave,
            stdout=self._slave,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.said = b""

    def until(self, text: bytes) -> None:
        """Read until this was said."""
        deadline = time.monotonic() + 20
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            self.said += os.read(self.master, 4_096)

    def end(self) -> int:
        """The exit status; the terminal must be as it was."""
        status = self.process.wait(20)
        after = termios.tcgetattr(self._slave)
        os.close(self._slave)
        os.close(self.master)
        assert after == self.before
        return status


def test_on_a_terminal_it_has_one_too_and_keys_are_its_own(openssh: OpenSsh) -> None:
    """Ctrl-C ends what runs there, not our side; the size is ours; ours is put back."""
    command = "trap 'echo caught; exit 4' INT; stty size; tty; while :; do sleep 0.1; done"
    terminal = Terminal(openssh.target(), command)
    terminal.until(b"/dev/")
    assert b"40 100" in terminal.said
    os.write(terminal.master, b"\x03")
    terminal.until(b"caught")
    assert terminal.end() == 4


def test_where_none_is_offered_it_goes_line_by_line(machine: Machine) -> None:
    """The local platform's instances have no terminals."""
    terminal = Terminal(machine.target(), "read a; echo got $a; exit 5")
    os.write(terminal.master, b"hello\n")
    terminal.until(b"got hello")
    assert terminal.end() == 5
