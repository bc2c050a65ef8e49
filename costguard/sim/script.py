"""What a training does from its launch on, written down before it begins: phases, steps, end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from costguard.core.spec import Schedule

SAVED = 75
BUSY_PERCENT = 97
Entry = tuple[int, str, dict[str, Any]]  # ms since launch, kind of record, fields


@dataclass(frozen=True)
class Script:
    """A training: a download, then rounds of steps with an evaluation and a save, then its end.

    `fault` is what goes wrong at step `fault_at`: `hang` (100 % GPU, no step), `quiet` (nothing
    at all), `vanish` (its processes are gone, no exit is seen), `crash`, `oom`, `nan`, `diverge`,
    or "" for a healthy one.
    """

    download_ms: int = 60_000
    load_ms: int = 60_000
    steps: int = 100
    step_ms: int = 30_000
    eval_every: int = 50
    eval_ms: int = 300_000
    save_ms: int = 20_000
    fault: str = ""
    fault_at: int = 0
    ignores_stop: bool = False
    adapter: bool = True

    @property
    def is_healthy(self) -> bool:
        """Whether it would end by itself with exit code 0."""
        return not self.fault

    @property
    def schedule(self) -> Schedule:
        """What its job file would say of it: how often it judges and saves, and not for how long.

        A script has no samples, so that its evaluations are of unknown size to the forecast.
        """
        return Schedule(evaluate_every=self.eval_every, save_every=self.eval_every)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Everything that it logs, in order; the last is its exit, unless it hangs or vanishes."""
        found: list[Entry] = [(0, "phase", {"phase": "download"})]
        at_ms = self.download_ms
        found.append((at_ms, "phase", {"phase": "load"}))
        at_ms += self.load_ms
        found.append((at_ms, "phase", {"phase": "train"}))
        for step in range(1, self.steps + 1):
            at_ms += self.step_ms
            if self.fault and step > self.fault_at:
                return (*found, *self._broken(at_ms, step))
            found.append((at_ms, "progress", self._progress(step)))
            if step % self.eval_every == 0 and step < self.steps:
                found.append((at_ms, "phase", {"phase": "evaluate"}))
                at_ms += self.eval_ms
                found.append((at_ms, "phase", {"phase": "save"}))
                at_ms += self.save_ms
                found.append((at_ms, "checkpoint", artifact("checkpoint", step)))
                found.append((at_ms, "phase", {"phase": "train"}))
        at_ms += self.save_ms
        found.append((at_ms, "exit", self._exit(0)))
        return tuple(found)

    @property
    def length_ms(self) -> int:
        """From the launch to the last thing that it logs."""
        return self.entries[-1][0]

    def _progress(self, step: int) -> dict[str, Any]:
        return {"step": step, "total_steps": self.steps, "loss": 0.5 + 3.0 / step}

    def _broken(self, at_ms: int, step: int) -> tuple[Entry, ...]:
        if self.fault == "crash":
            return ((at_ms, "exit", self._exit(1)),)
        if self.fault == "oom":
            fields = {**self._exit(1), "log_tail": ["torch.OutOfMemoryError: CUDA out of memory"]}
            return ((at_ms, "exit", fields),)
        if self.fault == "nan":
            return ((at_ms, "progress", {**self._progress(step), "loss": None}),)
        if self.fault == "diverge":
            return tuple(
                (at_ms + k * self.step_ms, "progress", {**self._progress(step + k), "loss": 99.0})
                for k in range(40)
            )
        return ((at_ms, self.fault, {}),)  # hang, quiet, vanish: a mark, not a record

    def _exit(self, code: int) -> dict[str, Any]:
        made = code == 0 and self.adapter
        found = artifact("adapter", self.steps) if made else None
        return {"code": code, "signal": None, "artifact": found, "log_tail": []}


def artifact(kind: str, step: int) -> dict[str, Any]:
    """A complete result, as the agent's journal names it."""
    name = kind if kind == "adapter" else f"{kind}-{step}"
    files = [{"path": f"{name}.safetensors", "size": 8, "sha256": "0" * 64}]
    return {"name": name, "kind": kind, "step": step, "complete": True, "files": files}
