from __future__ import annotations

from costguard.remote.inbox import Inbox


def kinds(inbox: Inbox) -> list[str]:
    """What is in it, which empties it."""
    return [message["t"] for message in inbox.drain()]


def test_messages_come_out_once_and_in_order() -> None:
    """As they were put in."""
    inbox = Inbox()
    for kind in ("hello", "progress", "log", "exit"):
        inbox.put({"t": kind})
    assert kinds(inbox) == ["hello", "progress", "log", "exit"]
    assert kinds(inbox) == []


def test_when_nobody_drains_the_oldest_logs_go_first() -> None:
    """Then GPU windows; what tells of money and progress stays, and the loss is counted."""
    inbox = Inbox(bulk_max=3)
    inbox.put({"t": "exit"})
    for number in range(3):
        inbox.put({"t": "log", "n": number})
    for number in range(4):
        inbox.put({"t": "gpu", "n": number})
        inbox.put({"t": "progress", "n": number})
    messages = inbox.drain()
    assert messages[0] == {"t": "dropped", "log": 3, "gpu": 1}
    assert [one["n"] for one in messages if one["t"] == "gpu"] == [1, 2, 3]
    assert [one["n"] for one in messages if one["t"] == "progress"] == [0, 1, 2, 3]
    assert [one["t"] for one in messages].count("exit") == 1


def test_only_the_newest_heartbeat_waits() -> None:
    """An hour's heartbeats are worth one answer."""
    inbox = Inbox()
    for number in range(3600):
        inbox.put({"t": "heartbeat", "n": number})
        inbox.put({"t": "upload", "done_bytes": number})
    assert [one.get("n", one.get("done_bytes")) for one in inbox.drain()] == [3599, 3599]
