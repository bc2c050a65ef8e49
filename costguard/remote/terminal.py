"""A command on an instance with this process's own streams: a terminal where there is one."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from typing import TYPE_CHECKING

import paramiko

from costguard.remote.ssh import UnreachableError, close_channel, open_channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANNEL_TIMEOUT_S = 30.0
LOOK_S = 0.2
BLOCK_BYTES = 65_536
DONE_S = 2.0
EXIT_BY_SIGNAL = 1  # SSH names the signal and no status


def talk(
    client: paramiko.SSHClient,
    command: str,
    ended: Callable[[], bool],
    *,
    stdin: int | None = 0,
    plain: bool = False,
) -> int | None:
    """Runs `command` there; its exit status, or None where `ended` said so before it was done.

    What is read from `stdin` goes there, what it writes comes to our own outputs. On a terminal
    it has one too, raw and of this size, unless `plain` or the instance offers none: keys such as
    Ctrl-C are the command's then. Raises UnreachableError when the connection breaks.
    """
    wanted = stdin is not None and not plain and os.isatty(stdin) and os.isatty(1)
    try:
        channel, terminal = _open(client, wants_terminal=wanted)
        try:
            channel.exec_command(command)
            with _raw(stdin if terminal else None):
                return _carry(channel, ended, stdin, terminal=terminal)
        finally:
            close_channel(channel)
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise UnreachableError(f"the connection broke: {type(error).__name__}: {error}") from error


def _open(client: paramiko.SSHClient, *, wants_terminal: bool) -> tuple[paramiko.Channel, bool]:
    """A channel, and whether it has a terminal."""
    channel = open_channel(client, CHANNEL_TIMEOUT_S)
    if not wants_terminal:
        return channel, False
    try:
        columns, lines = os.get_terminal_size(1)
        channel.get_pty(os.environ.get("TERM", "xterm"), columns, lines)
    except paramiko.SSHException:  # refused, and with it the channel is gone
        close_channel(channel)
        return open_channel(client, CHANNEL_TIMEOUT_S), False
    return channel, True


@contextlib.contextmanager
def _raw(terminal: int | None) -> Iterator[None]:
    """Every key as it is pressed, none of them ours; the terminal is put back, whatever happens."""
    if terminal is None:
        yield
        return
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _carry(
    channel: paramiko.Channel, ended: Callable[[], bool], stdin: int | None, *, terminal: bool
) -> int | None:
    source = stdin
    size: tuple[int, int] | None = None
    while not ended():
        if terminal:
            size = _follow_size(channel, size)
        watched = [channel.fileno()] if source is None else [channel.fileno(), source]
        ready, _, _ = select.select(watched, [], [], LOOK_S)
        _bring(channel)
        if channel.exit_status_ready() and not channel.recv_ready():
            return _last_words(channel)
        if channel.closed:
            raise EOFError("closed without an exit status")
        if source is not None and source in ready:
            source = _send(channel, source)
    return None


def _follow_size(channel: paramiko.Channel, known: tuple[int, int] | None) -> tuple[int, int]:
    columns, lines = os.get_terminal_size(1)
    if known not in (None, (columns, lines)):
        channel.resize_pty(columns, lines)
    return columns, lines


def _bring(channel: paramiko.Channel) -> None:
    while channel.recv_ready():
        _write(1, channel.recv(BLOCK_BYTES))
    while channel.recv_stderr_ready():
        _write(2, channel.recv_stderr(BLOCK_BYTES))


def _last_words(channel: paramiko.Channel) -> int:
    """The exit status, once what was written before it has come."""
    channel.settimeout(DONE_S)
    with contextlib.suppress(TimeoutError):  # something it started holds its output open
        while data := channel.recv(BLOCK_BYTES):
            _write(1, data)
    _bring(channel)
    status = channel.recv_exit_status()
    if status < 0 and not channel.eof_received:
        raise EOFError("cut off")
    return status if status >= 0 else EXIT_BY_SIGNAL


def _send(channel: paramiko.Channel, source: int) -> int | None:
    """Passes on what was typed; None once there is no more of it."""
    data = os.read(source, BLOCK_BYTES)
    if not data:
        channel.shutdown_write()
        return None
    channel.sendall(data)
    return source


def _write(descriptor: int, data: bytes) -> None:
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
