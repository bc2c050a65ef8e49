"""What has come in for the daemon, in order and in bounded memory."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

# Dropped first when nobody drains; the rest of these kinds only the newest of which matters.
BULK = ("log", "gpu")
NEWEST_ONLY = frozenset({"heartbeat", "upload"})
BULK_MAX = 2000


class Inbox:
    """Messages from several threads to one.

    Of heartbeats and upload figures only the newest is kept. Of logs and GPU windows there are
    at most `bulk_max`; beyond that the oldest go, logs first, and a `dropped` message counts
    them. Nothing else is ever dropped.
    """

    def __init__(self, bulk_max: int = BULK_MAX) -> None:
        self._lock = threading.Lock()
        self._messages: deque[dict[str, Any]] = deque()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._bulk_max = bulk_max

    def put(self, message: dict[str, Any]) -> None:
        """Appends a message, making room if it is one of a bulk kind."""
        kind = message["t"]
        with self._lock:
            if kind in NEWEST_ONLY and self._counts[kind]:
                self._remove_oldest(kind)
            self._messages.append(message)
            self._counts[kind] += 1
            if sum(self._counts[bulk] for bulk in BULK) > self._bulk_max:
                victim = next(bulk for bulk in BULK if self._counts[bulk])
                self._remove_oldest(victim)
                self._dropped[victim] += 1

    def drain(self) -> list[dict[str, Any]]:
        """Everything since the last call; begins with what had to be dropped, if anything."""
        with self._lock:
            messages = list(self._messages)
            if self._dropped:
                messages.insert(0, {"t": "dropped", **self._dropped})
            self._messages.clear()
            self._counts.clear()
            self._dropped.clear()
        return messages

    def _remove_oldest(self, kind: str) -> None:
        for at, message in enumerate(self._messages):
            if message["t"] == kind:
                del self._messages[at]
                self._counts[kind] -= 1
                return
