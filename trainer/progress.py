"""What a run tells the outside: `trainer_log.jsonl`, `status.json`, and lines on the terminal.

Telling must never end a run: a full disk or a closed terminal is passed over, once said.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trainer.lang import told

LOG_NAME = "trainer_log.jsonl"
STATUS_NAME = "status.json"
STATUS_SCHEMA = "costguard.trainer_status/1"
RECENT_STEPS = 20


def say(text: str) -> None:
    """Print `text` as it stands; a closed or full terminal does not matter."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good


def tell(text: str) -> None:
    """As `say`, in the person's language: for what no program reads."""
    say(told(text))


def warn(text: str) -> None:
    """Print `text` on stderr in the person's language; a closed or full terminal is no matter."""
    try:
        sys.stderr.write(told(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good


def strict_json(document: Mapping[str, Any]) -> str:
    """One line of JSON in which NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)


def clock_text(seconds: float) -> str:
    """`seconds` as LLaMA-Factory writes times: h:mm:ss."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


class TrainerLog:
    """Appends to `trainer_log.jsonl`: LLaMA-Factory's fields and ours, one object a line.

    A resumed run goes on in the same file; its first step may be lower than the last one logged.
    """

    def __init__(self, output_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = output_dir / LOG_NAME
        self._clock = clock
        self._last_s = clock()
        self._failed = False
        self._cut_torn_line()

    def silent_s(self) -> float:
        """Seconds since the last line of this process, or since it began."""
        return self._clock() - self._last_s

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line, whole or not at all, in a single write."""
        self._last_s = self._clock()
        data = (strict_json(line) + "\n").encode()
        try:
            descriptor = os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            try:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, data) != len(data):  # the disk filled up on the way
                    os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._failed:
                warn(f"{self.path}: {error.strerror}: the run goes on, its log has gaps")
            self._failed = True

    def _cut_torn_line(self) -> None:
        """A power cut or a full disk can leave half a line at the end; readers never see it."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(self.path, whole)


class Status:
    """Keeps `status.json`: what is going on now. Each change replaces the file atomically."""

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / STATUS_NAME
        self._failed = False
        self._fields: dict[str, Any] = {
            "schema": STATUS_SCHEMA,
            "phase": None,
            "step": 0,
            "total_steps": None,
            "loss": None,
            "eval_loss": None,
            "eta_s": None,
            "tokens_per_s": None,
            "last_checkpoint": None,
            "best_checkpoint": None,
            "stopped_early": None,
            "detail": None,
            "exit_code": None,
            "pid": os.getpid(),
        }

    def update(self, **fields: Any) -> None:
        """Set `fields`, write the file."""
        unknown = fields.keys() - self._fields.keys()
        if unknown:
            raise KeyError(f"status.json has no {sorted(unknown)}")
        self._fields.update(fields)
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        document = {**self._fields, "updated_at": now.replace("+00:00", "Z")}
        temporary = self.path.with_name(f".{STATUS_NAME}-{os.getpid()}")
        try:
            temporary.write_text(strict_json(document) + "\n", encoding="utf-8")
            temporary.replace(self.path)
        except OSError as error:
            if not self._failed:
                warn(f"{self.path}: {error.strerror}: the run goes on, its status is stale")
            self._failed = True

    @property
    def phase(self) -> str | None:
        """The phase last told."""
        phase: str | None = self._fields["phase"]
        return phase


class Pace:
    """How fast this session goes. Steps of earlier sessions count for nothing here.

    Both leading trainers divide this session's seconds by all steps ever done, and show a
    fraction of the true time left after a resume (LLaMA-Factory #7415).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._last_s = self._began_s
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._tokens = 0

    def step_done(self, tokens: int) -> None:
        """Count one optimizer step that read `tokens` real tokens (padding is not counted)."""
        now_s = self._clock()
        self._recent.append(now_s - self._last_s)
        self._last_s = now_s
        self._tokens += tokens

    def elapsed_s(self) -> float:
        """Seconds since this session began to train."""
        return self._clock() - self._began_s

    def eta_s(self, steps_left: int) -> float | None:
        """Seconds that `steps_left` take at the recent steps' mean; None before the first step."""
        if not self._recent:
            return None
        return steps_left * sum(self._recent) / len(self._recent)

    def tokens_per_s(self) -> float | None:
        """Real tokens a second of this session, saves included; None before the first step."""
        elapsed_s = self._last_s - self._began_s
        return self._tokens / elapsed_s if elapsed_s > 0 else None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
