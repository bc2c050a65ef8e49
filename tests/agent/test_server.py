from __future__ import annotations

import socket

from costguard.agent.server import OUT_BYTES_MAX, Connection, parse_message


def test_what_is_not_read_does_not_pile_up() -> None:
    """A client that hangs for days costs a quarter of a mebibyte, not the heartbeats of days."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        connection = Connection(near)
        for number in range(100_000):
            connection.send({"t": "heartbeat", "n": number})
            assert connection.flush()
        assert len(connection.to_send) < OUT_BYTES_MAX + 100


def test_a_client_that_has_gone_is_noticed() -> None:
    """By the next thing that is sent to it."""
    near, far = socket.socketpair()
    with near:
        far.close()
        connection = Connection(near)
        connection.send({"t": "heartbeat"})
        assert connection.flush() is False


def test_only_json_objects_are_messages() -> None:
    """And only JSON as the standard has it."""
    assert parse_message(b'{"t":"ack","seq":3}') == {"t": "ack", "seq": 3}
    for line in (b"", b"[]", b"3", b"{", b'{"a":NaN}', b"[" * 100_000, b"\xff"):
        assert parse_message(line) is None
