"""The agent's Unix socket: one reader at a time, the newest; none can hold up the supervisor."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent.endpoint import SOCKET_NAME
from costguard.agent.journal import Journal, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONNECTIONS_MAX = 8
LINE_BYTES = 64 * 1024
OUT_BYTES = 64 * 1024
OUT_BYTES_MAX = 256 * 1024


class Connection:
    """One client: what it has sent so far, and what is still to be sent to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.to_send = bytearray()
        self.last_seq: int | None = None
        self.closing = False

    def lines(self) -> list[bytes]:
        """The whole lines received; raises ValueError when one is too long."""
        *lines, rest = self.received.split(b"\n")
        if len(rest) > LINE_BYTES:
            raise ValueError("line too long")
        self.received = bytearray(rest)
        return [bytes(line) for line in lines]

    def send(self, message: Mapping[str, Any]) -> None:
        """Queues a message for a client that keeps up; for one that does not, leaves it out."""
        if len(self.to_send) < OUT_BYTES_MAX:
            self.to_send += encode(message)

    def flush(self) -> bool:
        """Sends what the socket takes; False when the client has gone."""
        try:
            while self.to_send:
                count = self.sock.send(self.to_send)
                del self.to_send[:count]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return not self.closing


class Server:
    """Accepts clients on the socket in the current directory.

    A client's first line says what it wants: `attach` (with `after`) becomes the reader, and an
    earlier reader is told `replaced`; anything else is answered by `ask` and closed.
    `first_seq` is the run's first record, below which nothing is sent; `own_seq` this agent's.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        journal: Journal,
        first_seq: int,
        own_seq: int,
        *,
        attached: Callable[[], None],
        receive: Callable[[Mapping[str, Any]], None],
        ask: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self._selector = selector
        self._journal = journal
        self._first_seq = first_seq
        self._own_seq = own_seq
        self._attached = attached
        self._receive = receive
        self._ask = ask
        self._connections: list[Connection] = []
        self._reader: Connection | None = None
        self._listener = _listen()
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def has_reader(self) -> bool:
        """Whether somebody is attached."""
        return self._reader is not None

    def send(self, message: Mapping[str, Any]) -> None:
        """Queues a message that is not journalled for the reader, if there is one."""
        if self._reader is not None:
            self._reader.send(message)

    def push(self) -> None:
        """Sends every client what it can take now: the reader its next journal records."""
        for connection in list(self._connections):
            if connection is self._reader and connection.last_seq is not None:
                self._fill(connection, connection.last_seq)
            if not connection.flush():
                self._drop(connection)
                continue
            events = selectors.EVENT_READ
            if connection.to_send:
                events |= selectors.EVENT_WRITE
            self._selector.modify(connection.sock, events, connection_handler(self, connection))

    def close(self) -> None:
        """Closes the clients and the socket."""
        for connection in list(self._connections):
            connection.flush()
            self._drop(connection)
        self._selector.unregister(self._listener)
        self._listener.close()

    def read(self, connection: Connection) -> None:
        """Takes what a client has sent."""
        try:
            data = connection.sock.recv(LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.received += data
        try:
            lines = connection.lines()
        except ValueError:
            self._drop(connection)
            return
        for line in lines:
            self._take(connection, line)

    def _fill(self, connection: Connection, last_seq: int) -> None:
        while len(connection.to_send) < OUT_BYTES:
            data, last_seq = self._journal.read_after(last_seq, OUT_BYTES)
            if not data:
                return
            connection.to_send += data
            connection.last_seq = last_seq
            if not connection.flush():
                return

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= CONNECTIONS_MAX:
            idle = [one for one in self._connections if one is not self._reader]
            self._drop(idle[0])
        sock.setblocking(False)
        connection = Connection(sock)
        self._connections.append(connection)
        handler = connection_handler(self, connection)
        self._selector.register(sock, selectors.EVENT_READ, handler)

    def _take(self, connection: Connection, line: bytes) -> None:
        message = parse_message(line)
        if connection.closing:
            return
        if message is None:
            connection.send({"t": "error", "code": "bad_message", "detail": "no JSON object"})
        elif connection is self._reader:
            self._receive(message)
        elif message.get("t") == "attach":
            self._attach(connection, message.get("after"))
        else:
            connection.send(self._ask(message))
            connection.closing = True

    def _attach(self, connection: Connection, after: object) -> None:
        earlier, self._reader = self._reader, connection
        if earlier is not None:
            earlier.send({"t": "replaced"})
            earlier.closing = True
        wanted = after if isinstance(after, int) and after >= 0 else 0
        if wanted > self._journal.last_seq:
            self._journal.repeat_after(self._own_seq, wanted)
        connection.last_seq = max(wanted, self._first_seq - 1)
        self._attached()

    def _drop(self, connection: Connection) -> None:
        if connection is self._reader:
            self._reader = None
        if connection in self._connections:
            self._connections.remove(connection)
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection.sock)
            connection.sock.close()


def connection_handler(server: Server, connection: Connection) -> Callable[[], None]:
    """What the loop calls when the connection's socket is ready."""
    return lambda: server.read(connection)


def parse_message(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line, or None; NaN and Infinity are no JSON."""
    try:
        message = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(SOCKET_NAME).unlink(missing_ok=True)  # we hold the lock, so it is nobody's
        listener.bind(SOCKET_NAME)
        listener.listen(CONNECTIONS_MAX)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
