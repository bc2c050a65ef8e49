"""The command socket: one JSON line in, one JSON line out. Only this user may connect."""

from __future__ import annotations

import json
import logging
import os
import socketserver
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from costguard.errors import EXIT_INTERNAL, UserError
from costguard.store.database import StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("costguard.socket")

REQUEST_BYTES_MAX = 4 * 1024 * 1024
Handler = Callable[[Mapping[str, Any]], dict[str, Any]]


class CommandServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers requests with the handlers it was given, each on a thread of its own."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
        path.unlink(missing_ok=True)  # the lock on the home says that no other daemon owns it
        before = os.umask(0o177)
        try:
            super().__init__(str(path), _Connection)
        finally:
            os.umask(before)
        self._path = path

    def start(self) -> None:
        """Serve on a thread."""
        threading.Thread(target=self.serve_forever, args=(0.1,), name="socket", daemon=True).start()

    def close(self) -> None:
        """Stop listening and take the socket away."""
        self.shutdown()
        self.server_close()
        self._path.unlink(missing_ok=True)


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while True:
            line = self.rfile.readline(REQUEST_BYTES_MAX)
            if not line:
                return
            try:
                self.wfile.write(
                    json.dumps(self._answer(line), ensure_ascii=False).encode() + b"\n"
                )
            except OSError:
                return  # whoever asked has gone

    def _answer(self, line: bytes) -> dict[str, Any]:
        assert isinstance(self.server, CommandServer)
        try:
            request = json.loads(line)
            handler = self.server.handlers[request["do"]]
        except (ValueError, KeyError, TypeError):
            return _error(UserError("bad_request", "this request is not understood", "socket", ""))
        try:
            return {"ok": True, "result": handler(request.get("args") or {})}
        except UserError as error:
            return _error(error)
        except StoreUnavailable as error:
            hint = "free some space, then try again; running instances are guarded all the same"
            return _error(UserError("database", str(error), "the daemon's database", hint))
        except Exception as error:
            log.exception("the answer to %s failed", request.get("do"))
            what = f"the daemon failed: {error!r}"
            return _error(UserError("internal", what, "daemon.log", "", EXIT_INTERNAL))


def _error(error: UserError) -> dict[str, Any]:
    return {"ok": False, "error": {**error.to_json(), "exit_code": error.exit_code}}
