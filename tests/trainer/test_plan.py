"""Plans: which are tried, in which order, and what is kept of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from trainer import plan as plans
from trainer.memory import GIB, Shape, bytes_needed, cost_per_token
from trainer.plan import Card, Plan, Wishes

if TYPE_CHECKING:
    from pathlib import Path

SEVEN_B = Shape(3584, 18944, 28, 152064, 512, rank=8, quantised=True)


def card(gib: float, attention: str = "varlen") -> Card:
    return Card("a card", int(gib * GIB), 200e12, attention)


def best(gib: float, attention: str = "varlen") -> Plan:
    return plans.candidates(
        card(gib, attention), SEVEN_B, longest=1024, step_tokens=8192, random=False
    )[0]


def test_the_estimate_is_near_what_was_measured() -> None:
    """Peak GiB allocated on an H200 (bench/EXPERIMENTS.md); within a fifth, runtime included."""
    measured = {
        (4096, "none", True): 24.77, (4096, "full", True): 8.60, (8192, "full", True): 11.46,
        (1216, "none", False): 12.28, (1216, "selective", False): 9.49,
        (1216, "full", True): 6.62,
    }  # fmt: skip
    for (tokens, checkpointing, compiled), gib in measured.items():
        estimate = bytes_needed(SEVEN_B, tokens, checkpointing, compiled=compiled) / GIB
        assert estimate == pytest.approx(gib + 0.9, rel=0.2), (tokens, checkpointing)


def test_more_memory_buys_speed() -> None:
    """Each larger card's plan is estimated faster, and the largest keeps everything."""
    found = [best(gib) for gib in (8.5, 12, 24, 79)]
    costs = [cost_per_token(p.pack_tokens, p.checkpointing, compiled=p.compiled) for p in found]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 4
    assert (found[-1].checkpointing, found[-1].pack_tokens) == ("none", 8192)


def test_every_candidate_fits_the_estimate_and_holds_the_longest_sample() -> None:
    """And no pack is larger than a step."""
    found = plans.candidates(card(23.5), SEVEN_B, longest=900, step_tokens=2500, random=True)
    for plan in found:
        assert 900 <= plan.pack_tokens <= 2500
        assert not plan.captured
        needed = bytes_needed(SEVEN_B, plan.pack_tokens, plan.checkpointing, compiled=False)
        assert needed <= 23.5 * GIB


def test_a_mask_of_all_pairs_keeps_packs_short() -> None:
    """Its work grows with the square of the pack."""
    assert best(79, "sdpa").pack_tokens == 4096


def test_a_card_that_is_too_small_gets_the_last_resort() -> None:
    """No estimate fits 6 GiB; the card itself must say so."""
    assert plans.candidates(card(6), SEVEN_B, longest=64, step_tokens=64, random=False) == []
    assert plans.last_resort(card(6), longest=64, random=False).checkpointing == "full"


def test_frugal_halves_packs_then_computes_more_again_then_captures_nothing() -> None:
    """Smaller passes first, since they cost less time than computing again."""
    plan: Plan | None = Plan(4096, "none", compiled=True, captured=True, attention="varlen")
    seen = []
    while plan:
        seen.append((plan.pack_tokens, plan.checkpointing, plan.captured))
        plan = plan.frugal(1000)
    assert seen == [
        (4096, "none", True), (2048, "none", True), (1024, "none", True), (1000, "none", True),
        (1000, "selective", True), (1000, "full", True), (1000, "full", False),
    ]  # fmt: skip


def test_compiling_pays_only_for_long_runs() -> None:
    """An hour of steps, yes; a minute, no."""
    plan = Plan(4096, "none", compiled=False, captured=True, attention="varlen")
    tokens_a_minute = 60 * 3000
    for minutes, pays in [(1, False), (60, True)]:
        tokens = minutes * tokens_a_minute
        assert plans.worth_compiling(card(80), SEVEN_B, plan, tokens, 4) == pays


def test_what_the_user_fixed_stays() -> None:
    """The rest of the plan is left as it was."""
    plan = plans.cpu_plan()
    assert Wishes().apply(plan) == plan
    assert Wishes(pack_tokens=128).apply(plan) == dataclasses.replace(plan, pack_tokens=128)


def test_a_measured_plan_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its key alone; a spoilt cache is as none, and is put right by the next plan."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = plans.cpu_plan()
    plans.remember("a", plan, {"s_per_step": 1.0, "bits": 4})
    assert plans.recall("a") == plans.Measured(plan, 4)
    assert plans.recall("b") is None
    plans.cache_path().write_text("{")
    assert plans.recall("a") is None
