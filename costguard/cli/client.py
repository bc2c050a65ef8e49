"""Ask the daemon, over its Unix socket: one JSON line there, one JSON line back.

What only reads is answered from the database when no daemon runs. Standard library alone, so that
`status` starts fast.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from costguard import paths
from costguard.errors import EXIT_INTERNAL, UserError
from costguard.lang import _

READS = frozenset(
    {"status", "report", "page", "explain", "events", "logs", "result", "budget_show"}
)
GONE = frozenset({"no_daemon", "daemon_gone"})
ANSWER_MAX_BYTES = 256 * 1024 * 1024
TIMEOUT_S = 15.0


def ask(do: str, args: dict[str, Any] | None = None, timeout_s: float = TIMEOUT_S) -> Any:
    """What the daemon answers to `do`, or the database when no daemon runs and `do` only reads.

    Raises UserError: the daemon's own, `no_daemon`, `daemon_silent` after `timeout_s`, or
    `bad_answer`.
    """
    try:
        return ask_daemon(do, args, timeout_s)
    except UserError as error:
        if error.code not in GONE or do not in READS:
            raise
    from costguard.report.documents import answer

    return answer(do, args or {})


def ask_daemon(do: str, args: dict[str, Any] | None = None, timeout_s: float = TIMEOUT_S) -> Any:
    """What the daemon answers; UserError `no_daemon` where none listens, or `daemon_gone`."""
    request = json.dumps({"do": do, "args": args or {}}, ensure_ascii=False) + "\n"
    path = paths.socket_path()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            connection.sendall(request.encode("utf-8"))
            line = _one_line(connection)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise _no_daemon() from error
        except ConnectionError as error:
            raise _daemon_gone() from error
        except TimeoutError as error:
            raise UserError(
                "daemon_silent",
                _("the daemon did not answer within {seconds} s").format(seconds=f"{timeout_s:g}"),
                str(path),
                _("look at {log}").format(log=paths.log_path()),
                EXIT_INTERNAL,
            ) from error
        except OSError as error:
            raise _bad_answer(str(error)) from error
    if not line:
        raise _daemon_gone()
    return _unwrap(line)


def _one_line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        chunk = connection.recv(65_536)
        if not chunk:
            break
        received += chunk
        if len(received) > ANSWER_MAX_BYTES:
            raise _bad_answer(_("the answer has no end"))
    return bytes(received)


def _unwrap(line: bytes) -> Any:
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return answer["result"]
        error = answer["error"]
        raise UserError(
            str(error["code"]),
            str(error["what"]),
            str(error.get("where") or ""),
            str(error.get("hint") or ""),
            int(error.get("exit_code", EXIT_INTERNAL)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad_answer(type(error).__name__) from error


def _no_daemon() -> UserError:
    return UserError(
        "no_daemon",
        _("no daemon runs for this home"),
        str(paths.home()),
        _("start it with `costguard daemon start`"),
        EXIT_INTERNAL,
    )


def _daemon_gone() -> UserError:
    return UserError(
        "daemon_gone",
        _("the daemon ended before it answered: whether it took the command is not known"),
        str(paths.home()),
        _("look with `costguard status` before you try again"),
        EXIT_INTERNAL,
    )


def _bad_answer(why: str) -> UserError:
    return UserError(
        "bad_answer",
        _("the daemon's answer was cut off or is not understood: {why}").format(why=why),
        str(paths.socket_path()),
        _("look at {log}").format(log=paths.log_path()),
        EXIT_INTERNAL,
    )
