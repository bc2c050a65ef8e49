"""Having what is missing installed on the instance, watched while it goes on."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any

import paramiko

from costguard.remote.ssh import (
    RefusedError,
    RemoteFailedError,
    UnreachableError,
    session_channel,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from paramiko import Channel, SSHClient

CHANNEL_TIMEOUT_S = 30.0
# It speaks every two seconds; looking for a Python on a slow disk takes longer than that.
SILENCE_S = 90.0
SLICE_S = 0.25
RECEIVE_BYTES = 64 * 1024
LINE_BYTES_MAX = 1024 * 1024


def install(
    client: SSHClient,
    agent: Sequence[str],
    directory: str,
    emit: Callable[[dict[str, Any]], None],
) -> None:
    """Has the order's environment made; its `install` messages go to `emit`, the last one too.

    Raises RefusedError with the agent's own code (`missing_modules`, `no_torch`,
    `no_environment`, `install_failed`, `install_timeout`, `torch_replaced`), UnreachableError
    when the line breaks: the installation then ends, and what was downloaded is kept for the next.
    """
    argv = [*agent, "install", f"--dir={directory}"]
    said = b""
    try:
        with session_channel(client, CHANNEL_TIMEOUT_S) as channel:
            channel.exec_command(shlex.join(argv))
            channel.settimeout(SLICE_S)
            for line in _lines(channel):
                said = line
                message = _parse(line)
                refusal = message.get("error")
                if isinstance(refusal, dict):
                    code = str(refusal.get("code"))
                    emit({"t": "install", "state": "failed", "code": code, "line": refusal["what"]})
                    raise RefusedError(f"installing: {refusal.get('what')}", code)
                if message.get("t") == "install":
                    emit(message)
                    if message.get("state") in ("installed", "present"):
                        return
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise UnreachableError(f"install: {type(error).__name__}: {error}") from error
    text = said[-300:].decode("utf-8", "replace")
    raise RemoteFailedError(f"agent.pyz install ended without a result: {text!r}")


def _lines(channel: Channel) -> Iterator[bytes]:
    """Whole lines until the end; UnreachableError when nothing has come for too long."""
    pending, heard = b"", time.monotonic()
    while True:
        try:
            data = channel.recv(RECEIVE_BYTES)
        except TimeoutError:
            if time.monotonic() - heard > SILENCE_S:
                raise UnreachableError(f"install: nothing heard for {SILENCE_S:.0f} s") from None
            continue
        if not data:
            return
        heard = time.monotonic()
        *lines, pending = (pending + data)[-LINE_BYTES_MAX:].split(b"\n")
        yield from lines


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
