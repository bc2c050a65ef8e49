"""How a run uses the card: chosen from a model of memory, or measured by a probe.

Nothing here changes what is learnt, so a plan may change on a resume, on another card, or after
the card ran out of memory.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import memory
from trainer.attention import SDPA_BUDGET_TOKENS
from trainer.layers import CHECKPOINTING
from trainer.progress import warn

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU_BUDGET_TOKENS = 512
SHAPES_AT_MOST = 4
"""As many shapes as a run's packs are padded to: each is compiled and captured for itself."""
BUDGETS_TOKENS = (16384, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 512)
MEMORY_SHARE = 0.92
"""Of the card's memory, what a plan may need: the estimate is not exact."""
MODEL_SHARE = 0.6
"""Of a large product's rate, what long compiled passes reached on an H200."""
COMPILE_S_PER_SHAPE = 8.0
"""Measured on an H200's host: 25 to 32 s for four shapes."""


@dataclass(frozen=True)
class Plan:
    """One way to run; every part has a say in speed and memory, none in the result."""

    pack_tokens: int
    """The budget of a pack, which is what one pass sees."""
    checkpointing: str
    compiled: bool
    captured: bool
    attention: str

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint's execution fingerprint holds of it."""
        return asdict(self)

    def text(self) -> str:
        """The plan in a line for a person."""
        parts = [
            f"passes of up to {self.pack_tokens} tokens", f"{self.attention} attention",
            {"none": "everything kept for the backward pass",
             "selective": "4-bit products kept, the rest computed again",
             "full": "layers computed again in the backward pass"}[self.checkpointing],
        ]  # fmt: skip
        if self.compiled:
            parts.append("layers compiled")
        if self.captured:
            parts.append("passes captured")
        return ", ".join(parts)

    def frugal(self, longest: int) -> Plan | None:
        """The next plan that needs less memory: smaller packs, fuller checkpointing, no capture.

        None when there is none. No pack can be smaller than the longest sample.
        """
        if self.pack_tokens // 2 >= longest:
            return replace(self, pack_tokens=self.pack_tokens // 2)
        if self.pack_tokens > longest:
            return replace(self, pack_tokens=longest)
        place = CHECKPOINTING.index(self.checkpointing)
        if place + 1 < len(CHECKPOINTING):
            return replace(self, checkpointing=CHECKPOINTING[place + 1])
        if self.captured:  # a captured program keeps what its pass needed
            return replace(self, captured=False)
        return None


@dataclass(frozen=True)
class Wishes:
    """What the user fixed of the plan; None where the choice is ours."""

    pack_tokens: int | None = None
    checkpointing: str | None = None
    compiled: bool | None = None
    captured: bool | None = None
    attention: str | None = None

    def apply(self, plan: Plan) -> Plan:
        """`plan` with what the user fixed."""
        fixed = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(plan, **fixed)


def from_json(document: Mapping[str, Any]) -> Plan:
    """The plan that `as_json` wrote."""
    return Plan(**document)


@dataclass(frozen=True)
class Measured:
    """The best plan of a probe, and the weights' bits that it was the best with (None: bf16)."""

    plan: Plan
    bits: int | None


@dataclass(frozen=True)
class Card:
    """The card at hand, as plans see it."""

    name: str
    memory_bytes: int
    """What this process may use of it."""
    flop_per_s: float
    """Of a large bf16 product, measured."""
    attention: str


def candidates(
    card: Card, shape: memory.Shape, *, longest: int, step_tokens: int, random: bool
) -> list[Plan]:
    """The plans that fit the card, the cheapest estimate first.

    Without compiling: whether that pays is `worth_compiling`'s question. A pack beyond what one
    step has is never filled, so the budgets end with `step_tokens`.
    """
    most = SDPA_BUDGET_TOKENS if card.attention == "sdpa" else BUDGETS_TOKENS[0]
    budgets = sorted({max(longest, min(b, step_tokens, most)) for b in BUDGETS_TOKENS})
    fitting = [
        (_cost(shape, budget, checkpointing, compiled=False), -budget, checkpointing)
        for budget in budgets
        for checkpointing in CHECKPOINTING
        if memory.bytes_needed(shape, budget, checkpointing, compiled=False)
        <= MEMORY_SHARE * card.memory_bytes
    ]
    return [
        Plan(-budget, checkpointing, compiled=False, captured=not random, attention=card.attention)
        for _cost, budget, checkpointing in sorted(fitting)
    ]


def last_resort(card: Card, *, longest: int, random: bool) -> Plan:
    """The plan that needs least: where no estimate fits, the card must say so itself."""
    return Plan(longest, "full", compiled=False, captured=not random, attention=card.attention)


def run_s(card: Card, shape: memory.Shape, plan: Plan, tokens: int) -> float:
    """About how many seconds passes over `tokens` take, compiled if the plan is."""
    at_best = tokens * shape.train_flop_per_token() / card.flop_per_s
    return (
        at_best
        / MODEL_SHARE
        * _cost(shape, plan.pack_tokens, plan.checkpointing, compiled=plan.compiled)
    )


def _cost(shape: memory.Shape, tokens: int, checkpointing: str, *, compiled: bool) -> float:
    return memory.cost_per_token(
        tokens, checkpointing, compiled=compiled, quantised=shape.quantised
    )


def worth_compiling(card: Card, shape: memory.Shape, plan: Plan, tokens: int, shapes: int) -> bool:
    """Whether compiling saves more seconds of a run over `tokens` than it takes."""
    eager_s = run_s(card, shape, replace(plan, compiled=False), tokens)
    compiled_s = run_s(card, shape, replace(plan, compiled=True), tokens)
    return eager_s - compiled_s > COMPILE_S_PER_SHAPE * shapes


def cache_path() -> Path:
    """Where measured plans are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "costguard-trainer" / "plans.json"


def recall(key: str) -> Measured | None:
    """What was measured for `key`, if there is something that can be read."""
    try:
        entry = json.loads(cache_path().read_bytes())[key]
        return Measured(from_json(entry["plan"]), entry.get("bits"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(key: str, plan: Plan, facts: Mapping[str, Any]) -> None:
    """Keep `plan` for `key`; a disk that does not take it costs the next run a probe, no more."""
    path = cache_path()
    try:
        known = json.loads(path.read_bytes()) if path.exists() else {}
        known[key] = {"plan": plan.as_json(), **facts}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
        temporary.replace(path)
    except (OSError, ValueError, TypeError) as error:
        warn(f"{path}: {error}: the plan is not kept")


def cpu_plan() -> Plan:
    """On a CPU there is memory, and nothing to launch: short packs, everything kept."""
    return Plan(CPU_BUDGET_TOKENS, "none", compiled=False, captured=False, attention="sdpa")
