"""Taking turns: all variants of a row stay loaded, and only the one whose turn it is computes.

So rounds can be interleaved without loading a model again, and each tool trains through its own
trainer: it only waits, between two of its steps, until it may go on.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 0.05
GIVE_UP_S = 900.0


class Turns:
    """The worker's side: call `step_done` after each optimizer step.

    The folder holds `turn`, a number of steps for which this worker may go on, and what it has
    answered: `warm.json`, then `round-N.json` for each round.
    """

    def __init__(self, folder: Path, warm_steps: int, round_steps: int, rounds: int) -> None:
        self.folder = folder
        self.warm_steps = warm_steps
        self.round_steps = round_steps
        self.total_steps = warm_steps + round_steps * rounds + PROFILED_STEPS
        self.rounds = rounds
        self._steps = 0
        self._round = 0
        self._began_s = time.perf_counter()
        self._seconds: list[float] = []
        self._profile: Any = None

    def step_done(self) -> None:
        """Note the step; at the end of a round, answer and wait for the next turn."""
        import torch

        torch.cuda.synchronize()
        now_s = time.perf_counter()
        self._steps += 1
        if self._steps == self.warm_steps:
            self._answer("warm.json", {"seconds": now_s - self._began_s})
            self._wait()
        elif self._profile:
            if self._steps == self.total_steps:
                self._answer("profile.json", self._profiled(now_s))
        elif self._steps > self.warm_steps:
            self._seconds.append(now_s - self._began_s)
            if len(self._seconds) == self.round_steps:
                facts = {"seconds": self._seconds, "reserved": torch.cuda.max_memory_reserved()}
                self._answer(f"round-{self._round}.json", facts)
                self._seconds = []
                self._round += 1
                self._wait()
                if self._round == self.rounds:
                    self._profile = _start_profile()
        self._began_s = time.perf_counter()

    def enough(self) -> bool:
        """Never: each worker has its number of steps."""
        return False

    def trained(self, trainer: Any) -> None:
        """Nothing is saved: the steps alone are measured."""

    def _profiled(self, now_s: float) -> dict[str, Any]:
        self._profile.stop()
        busy_us: dict[str, float] = {}
        for event in self._profile.key_averages():
            busy_us[event.key] = busy_us.get(event.key, 0.0) + event.self_device_time_total
        top = sorted(busy_us.items(), key=lambda item: -item[1])[:25]
        return {
            "steps": PROFILED_STEPS,
            "busy_ms_per_step": sum(busy_us.values()) / 1000 / PROFILED_STEPS,
            "last_step_s": now_s - self._began_s,
            "top_ms_per_step": {name[:90]: us / 1000 / PROFILED_STEPS for name, us in top},
        }

    def _answer(self, name: str, facts: dict[str, Any]) -> None:
        write_whole(self.folder / name, facts)

    def _wait(self) -> None:
        wanted = self.folder / f"go-{self._round}"
        deadline_s = time.monotonic() + GIVE_UP_S
        while not wanted.exists():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no turn within {GIVE_UP_S:.0f} s: {wanted}")
            time.sleep(WAIT_S)


PROFILED_STEPS = 2


def _start_profile() -> Any:
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CUDA])
    profiler.start()
    return profiler


def write_whole(path: Path, facts: dict[str, Any]) -> None:
    """Write the file at once: whoever sees it sees all of it."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    temporary.replace(path)
