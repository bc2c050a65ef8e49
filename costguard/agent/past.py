"""What the journal knows of this run from an agent that was here before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

READ = frozenset({"hello", "lease", "started", "stopping", "exit", "checkpoint", "verdict"})
LAST_ONLY = frozenset({"progress", "log", "phase"})


@dataclass
class Past:
    """The state of a run as recorded; empty for a run that begins now.

    `first_seq`: the number of the run's first record; what was before belongs to another run.
    `present`: artifacts that lay there before the run began or have been reported since, by
    name and manifest identity. `latest`: the last record of each kind that is not named here.
    """

    first_seq: int | None = None
    present: dict[str, str] = field(default_factory=dict)
    progress_offset: int | None = None
    log_offset: int | None = None
    adapter: dict[str, Any] | None = None
    lease: dict[str, Any] | None = None
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def boot_id(self) -> str | None:
        """The boot in which the last agent of this run lived; its clock is of that boot."""
        return self.latest.get("hello", {}).get("boot_id")

    @property
    def phase(self) -> str | None:
        """The phase the training was in."""
        return self.latest.get("phase", {}).get("phase")

    def take(self, record: dict[str, Any]) -> None:
        """Brings the state up to one more record of this run."""
        kind = record["t"]
        self.latest[kind] = record
        if kind == "hello" and self.first_seq is None:
            self.first_seq = record["seq"]
            self.present = dict(record.get("present", {}))
            self.progress_offset = record.get("progress_offset")
            self.log_offset = record.get("log_offset")
        elif kind == "lease" and record.get("state") == "granted":
            self.lease = record
        elif kind == "checkpoint":
            self.present[record["name"]] = record["manifest_id"]
            if record["kind"] == "adapter" and record["complete"]:
                self.adapter = record
        elif kind == "progress":
            self.progress_offset = record.get("offset", self.progress_offset)
        elif kind == "log":
            self.log_offset = record.get("offset", self.log_offset)


def read_past(records: Iterable[tuple[str, bytes]], run_id: str) -> Past:
    """The past of `run_id`, if it is the latest run in the journal; else an empty one."""
    past: Past | None = None
    last: dict[str, bytes] = {}
    for kind, line in records:
        if kind in LAST_ONLY:
            last[kind] = line
            continue
        record = _parse(line) if kind in READ else None
        if record is None:
            continue
        if kind == "hello":
            mine = record.get("run_id") == run_id
            if not mine or past is None:
                past = Past() if mine else None
                last.clear()
        if past is not None:
            past.take(record)
    if past is None:
        return Past()
    for line in last.values():
        record = _parse(line)
        if record is not None:
            past.take(record)
    return past


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
