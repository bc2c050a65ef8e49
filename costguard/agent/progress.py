"""What the trainer tells of itself: progress lines and the phase it is in."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from costguard.agent.tail import Tail

if TYPE_CHECKING:
    from pathlib import Path

STATUS_FILE = "status.json"
PROGRESS_FILE = "trainer_log.jsonl"
READ_BYTES = 256 * 1024
STATUS_BYTES = 64 * 1024
TEXT_CHARS = 200
EXTRAS = 24
RENAMED = {"current_steps": "step"}
ALWAYS = ("step", "total_steps", "loss", "eval_loss", "lr", "epoch", "throughput")
RESERVED = frozenset({"seq", "t", "at_ms", "boot_ms", "offset", "nonfinite"})


class ProgressWatcher:
    """Reads `trainer_log.jsonl` and `status.json` of the output directory as they change.

    `log_offset`: where in the log this run begins, or where an agent before this one stopped.
    """

    def __init__(self, output: Path, log_offset: int, phase: str | None) -> None:
        self._tail = Tail(output / PROGRESS_FILE, log_offset)
        self._status = output / STATUS_FILE
        self._status_identity = _identity(self._status) if phase is None else ""
        self._has_status = False
        self._phase = phase

    def poll(self, *, final: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """New `phase` and `progress` messages, in order."""
        messages = self._poll_status()
        for offset, line in self._tail.read_lines(READ_BYTES, final=final):
            fields = parse_progress(line)
            if fields is None:
                continue
            if not self._has_status:
                phase = fields.get("phase")
                messages += self._enter(phase if isinstance(phase, str) else "train", {})
            messages.append(("progress", {**fields, "offset": offset}))
        return messages

    def _poll_status(self) -> list[tuple[str, dict[str, Any]]]:
        identity = _identity(self._status)
        if identity in ("", self._status_identity):
            return []
        try:
            with self._status.open("rb") as file:
                status = json.loads(file.read(STATUS_BYTES))
        except (OSError, ValueError):
            return []  # seen in the middle of a write: read again at the next poll
        self._status_identity = identity
        phase = status.pop("phase", None) if isinstance(status, dict) else None
        if not isinstance(phase, str) or not phase:
            return []
        self._has_status = True
        return self._enter(phase, {"status": _scalars(status)})

    def _enter(self, phase: str, extra: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        if phase == self._phase:
            return []
        self._phase = phase
        return [("phase", {"phase": phase[:TEXT_CHARS], **extra})]


def parse_progress(line: bytes) -> dict[str, Any] | None:
    """The fields of a `progress` message, or None for a line that is no progress.

    LLaMA-Factory's names, `current_steps` as `step`; times stay as they were written, strings
    or numbers. A number that JSON does not know (NaN, Infinity) becomes null and is named in
    `nonfinite`, so that a diverged loss is not taken for a line that has none.
    """
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    step = raw.get("current_steps")
    if isinstance(step, bool) or not isinstance(step, int):
        return None
    fields: dict[str, Any] = dict.fromkeys(ALWAYS)
    fields.update({RENAMED.get(key, key): value for key, value in _scalars(raw).items()})
    nonfinite = [RENAMED.get(key, key) for key, value in raw.items() if _nonfinite(value)]
    return {**fields, "nonfinite": nonfinite}


def _scalars(raw: dict[str, Any]) -> dict[str, Any]:
    """The plain values of an object, bounded in number and length, NaN as null."""
    kept: dict[str, Any] = {}
    for key, value in raw.items():
        if key in RESERVED or len(kept) >= EXTRAS or len(key) > TEXT_CHARS:
            continue
        if isinstance(value, str):
            kept[key] = value[:TEXT_CHARS]
        elif value is None or isinstance(value, (bool, int, float)):
            kept[key] = None if _nonfinite(value) else value
    return kept


def _nonfinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _identity(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"
