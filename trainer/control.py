"""What a run is told while it runs: `control.json` in its output directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trainer.progress import warn

if TYPE_CHECKING:
    from pathlib import Path

CONTROL_NAME = "control.json"


class Control:
    """Reads `control.json` anew whenever it has changed. Whoever writes it replaces it whole."""

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / CONTROL_NAME
        self._seen: tuple[int, int] | None = None
        self._stop_at_step: int | None = None

    def stop_at_step(self) -> int | None:
        """The step after which to save and end, or None. A file that cannot be read says nothing.

        Said once: a budget that is not understood must not stay unseen.
        """
        try:
            facts = self.path.stat()
        except OSError:
            self._seen = self._stop_at_step = None
            return None
        seen = (facts.st_ino, facts.st_mtime_ns)
        if seen != self._seen:
            self._seen = seen
            self._stop_at_step = self._read()
        return self._stop_at_step

    def _read(self) -> int | None:
        try:
            value = json.loads(self.path.read_bytes()).get("stop_at_step")
        except (OSError, ValueError, AttributeError) as error:
            warn(f'{self.path}: {error}: passed over; write {{"stop_at_step": 100}}')
            return None
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        warn(f"{self.path}: stop_at_step is {value!r}, not a whole number: passed over")
        return None
