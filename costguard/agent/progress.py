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
# LLaMA-Factory wrote `learning_rate` before 0.8.
RENAMED = {"current_steps": "step", "learning_rate": "lr"}
ALWAYS = ("step", "total_steps", "loss", "eval_loss", "lr", "epoch", "throughput")
NUMBERS = frozenset({"loss", "eval_loss", "lr", "epoch"})
# What changes in a status without anything having got on.
NO_NEWS = frozenset({"updated_at", "pid", "eta_s"})
PULSE_NS = 10_000_000_000
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
        self._told: dict[str, Any] = {}
        self._told_ns = 0

    def poll(self, *, final: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """New `phase` and `progress` messages, in order."""
        messages = self._poll_status()
        for offset, line in self._tail.read_lines(READ_BYTES, final=final):
            fields = parse_progress(line)
            if fields is None:
                continue
            if not self._has_status:
                phase = fields.get("phase")
                inferred = not isinstance(phase, str)
                messages += self._enter(
                    "train" if inferred else str(phase), {"inferred": True} if inferred else {}
                )
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
        scalars = _scalars(status)
        return self._enter(phase, {"status": scalars}) or self._pulse(phase, scalars)

    def _pulse(self, phase: str, scalars: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """The same phase again, each 10 s at most, where its status shows that it gets on.

        In training the progress lines tell that, and a status that is written does not.
        """
        news = {key: value for key, value in scalars.items() if key not in NO_NEWS}
        at_ns = int(self._status_identity.split(":")[1])
        if phase == "train" or news == self._told or abs(at_ns - self._told_ns) < PULSE_NS:
            return []
        self._told, self._told_ns = news, at_ns
        return [("phase", {"phase": phase[:TEXT_CHARS], "status": scalars})]

    def _enter(self, phase: str, extra: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        if phase == self._phase:
            return []
        self._phase = phase
        status = extra.get("status", {})
        self._told = {key: value for key, value in status.items() if key not in NO_NEWS}
        identity = self._status_identity.split(":")
        self._told_ns = int(identity[1]) if len(identity) > 1 else 0
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
    raw = {key: _as_number(key, value) for key, value in raw.items()}
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


def _as_number(key: str, value: Any) -> Any:
    """A figure that was written as text, or a step as `3.0`; anything else as it is."""
    if key in NUMBERS and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if key in ("current_steps", "total_steps") and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _nonfinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _identity(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"
