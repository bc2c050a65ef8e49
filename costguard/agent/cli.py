"""The agent's command line: `start`, `attach`, `probe`, `hash`, `send`. Answers are JSON lines."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from costguard.agent import VERSION, daemonize
from costguard.agent.interpreters import find_python
from costguard.agent.probe import hashes, probe
from costguard.agent.service import Launch, Service
from costguard.agent.spec import PYTHON, Spec, SpecError, load_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SPEC = "spec.json"
COPY_BYTES = 64 * 1024
SEND_BYTES = 1024 * 1024
EXIT_REFUSED = 3
EXIT_NO_AGENT = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status, 3 where the order cannot be carried out."""
    arguments = _parser().parse_args(argv)
    handlers = {
        "start": start,
        "attach": attach,
        "probe": show_probe,
        "hash": show_hashes,
        "send": send_files,
    }
    try:
        os.chdir(arguments.dir)
        return handlers[arguments.command](arguments)
    except SpecError as error:
        return _refuse("bad_spec", str(error))
    except OSError as error:
        return _refuse("os_error", f"{type(error).__name__}: {error}")


def start(_arguments: argparse.Namespace) -> int:
    """Starts the agent of this directory; says `already` where it runs.

    One that serves an earlier run whose training is over makes way for the new run.
    """
    spec = load_spec(Path(SPEC))
    umask = os.umask(0o077)
    lock = daemonize.take_lock()
    if lock is None:
        serving = daemonize.ask_agent("status")
        if serving is None:
            return _refuse("agent_silent", "another agent holds this directory and is silent")
        if serving["run_id"] == spec.run_id:
            return _print({**serving, "t": "start", "already": True})
        if serving["training"] == "running":
            other = serving["run_id"]
            return _refuse("busy", f"run {other!r} is still training here: stop it first")
        daemonize.ask_agent("retire")
        lock = daemonize.take_lock_within(daemonize.RETIRE_TIMEOUT_S)
        if lock is None:
            return _refuse("agent_silent", "the agent of the earlier run does not make way")
    launch = _launch(spec, umask)
    if isinstance(launch, str):
        return _refuse("missing_modules", launch)
    answer = daemonize.detach(lambda report: _serve(spec, launch, report))
    if "error" in answer:
        return _refuse("agent_failed", answer["error"])
    return _print(answer)


def attach(arguments: argparse.Namespace) -> int:
    """Joins standard input and output to the agent's socket until either ends."""
    try:
        sock = daemonize.connect()
    except OSError as error:
        _refuse("no_agent", f"no agent serves this directory: {error}")
        return EXIT_NO_AGENT
    sock.sendall(json.dumps({"t": "attach", "after": arguments.after}).encode() + b"\n")
    threading.Thread(target=_copy_down, args=(sock,), daemon=True).start()
    with contextlib.suppress(OSError):
        while data := sock.recv(COPY_BYTES):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
    os._exit(0)  # the other thread may be blocked in read for ever


def show_probe(_arguments: argparse.Namespace) -> int:
    """Prints what the machine offers; reads the order for what is needed, if it is there."""
    needs: Sequence[str] = ()
    env: Mapping[str, str] = os.environ
    if Path(SPEC).exists():
        spec = load_spec(Path(SPEC))
        needs, env = spec.needs, {**os.environ, **spec.env}
    return _print({**probe(needs, env, Path()), "agent_version": VERSION})


def show_hashes(arguments: argparse.Namespace) -> int:
    """Prints size and sha256 of files; without names, reads them as a JSON list from stdin."""
    names = arguments.files or json.load(sys.stdin)
    return _print({"files": hashes(Path(), names)})


def send_files(_arguments: argparse.Namespace) -> int:
    """Writes files to standard output, from the offsets that a JSON list on stdin asks for.

    Each as one JSON line with `path` and `bytes`, then that many bytes; or with `error` and no
    bytes. One stream over one channel reaches what the line carries, where SFTP's separate
    reads wait for each other.
    """
    out = sys.stdout.buffer
    whole = all(_send_one(out, path, offset) for path, offset in json.load(sys.stdin))
    out.flush()
    return 0 if whole else EXIT_REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent.pyz", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("start", "attach", "probe", "hash", "send"):
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("--dir", required=name != "probe", default=".")
        if name == "attach":
            command.add_argument("--after", type=int, default=0)
        if name == "hash":
            command.add_argument("files", nargs="*")
    return parser


def _launch(spec: Spec, umask: int) -> Launch | str:
    """How to start the training, or the sentence that says what is missing."""
    if PYTHON not in spec.argv:
        return Launch(spec.argv, None, umask)
    env = {**os.environ, **spec.env}
    chosen, missing = find_python(spec.needs, env, Path())
    if chosen is None:
        return f"no Python here can import: {', '.join(missing) or 'anything (none runs)'}"
    argv = [chosen.path if part == PYTHON else part for part in spec.argv]
    return Launch(argv, chosen.path, umask)


def _serve(spec: Spec, launch: Launch, report: Any) -> None:
    try:
        service = Service(spec, launch)
    except OSError as error:
        report({"error": f"{type(error).__name__}: {error}"})
        raise
    answer = {"t": "start", "already": False, "pid": os.getpid(), "run_id": spec.run_id}
    service.run(lambda: report({**answer, "python": launch.python}))


def _send_one(out: BinaryIO, path: str, offset: int) -> bool:
    """False when the file could not be read to its end: then the stream cannot go on."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115  closed below, after its header is out
    except OSError as error:
        out.write(json.dumps({"path": path, "error": str(error)}).encode() + b"\n")
        return True
    with file:
        left = max(0, os.fstat(file.fileno()).st_size - offset)
        out.write(json.dumps({"path": path, "bytes": left}).encode() + b"\n")
        file.seek(offset)
        while left and (block := file.read(min(left, SEND_BYTES))):
            out.write(block)
            left -= len(block)
    return left == 0


def _copy_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, COPY_BYTES):
            sock.sendall(data)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _print(answer: Mapping[str, Any]) -> int:
    print(json.dumps(answer), flush=True)  # noqa: T201  standard output is the interface
    return 0


def _refuse(code: str, what: str) -> int:
    error = {"code": code, "what": what, "where": str(Path.cwd()), "hint": ""}
    _print({"t": "error", "error": error})
    return EXIT_REFUSED
