"""The platform's own crash-safe memory: one SQLite file, one JSON document per instance."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

from costguard.localcloud.state import Instance

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS instance (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stop_call (
    number INTEGER PRIMARY KEY AUTOINCREMENT, instance TEXT NOT NULL, at_ms INTEGER NOT NULL,
    via TEXT NOT NULL, ignored INTEGER NOT NULL);
"""


class Store:
    """One transaction per write, synced before it returns; callers hold the registry's lock."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(SCHEMA)

    def load(self) -> list[Instance]:
        """Every instance there ever was, released ones included, oldest first."""
        rows = self._connection.execute("SELECT document FROM instance ORDER BY number")
        return [Instance.from_document(json.loads(row[0])) for row in rows]

    def save(self, instances: Iterable[Instance]) -> None:
        """All of them as they are now, or none of them."""
        rows = [(one.id, json.dumps(one.to_document())) for one in instances]
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO instance (id, document) VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET document = excluded.document",
                rows,
            )

    def add_stop_call(self, instance_id: str, at_ms: int, via: str, *, ignored: bool) -> None:
        """Remember a stop call that was answered with "accepted"."""
        self._connection.execute(
            "INSERT INTO stop_call (instance, at_ms, via, ignored) VALUES (?, ?, ?, ?)",
            (instance_id, at_ms, via, ignored),
        )

    def stop_calls(self) -> list[dict[str, object]]:
        """Every accepted stop call, oldest first."""
        rows = self._connection.execute(
            "SELECT instance, at_ms, via, ignored FROM stop_call ORDER BY number"
        )
        return [
            {"instance": row[0], "at_ms": row[1], "via": row[2], "ignored": bool(row[3])}
            for row in rows
        ]

    def get(self, key: str) -> str | None:
        """A fact about the platform itself, or None."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, value: str) -> None:
        """Remember a fact about the platform itself."""
        self._connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._connection.close()
