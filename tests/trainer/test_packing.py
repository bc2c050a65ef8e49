"""Packs: every sample once, whole, in its own segment; few lengths with little padding."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st

from trainer.packing import (
    GRAIN_TOKENS,
    Shape,
    choose_lengths,
    choose_shapes,
    cut,
    fit,
    lay_out,
    plan_packing,
)
from trainer.template import IGNORED, Encoded


def sample(*token_ids: int, untrained: int = 1) -> Encoded:
    labels = (*[IGNORED] * untrained, *token_ids[untrained:])
    return Encoded(tuple(token_ids), labels)


lengths = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@given(lengths, st.integers(1, 400))
def test_every_sample_is_in_one_pack_and_none_is_overfull(given: list[int], budget: int) -> None:
    """Only a sample longer than the budget may be over it, and then alone."""
    packs = fit(given, budget)
    assert sorted(index for pack in packs for index in pack) == list(range(len(given)))
    for pack in packs:
        assert sum(given[index] for index in pack) <= budget or len(pack) == 1
        assert pack == sorted(pack)


@given(lengths, st.integers(300, 900))
def test_no_two_packs_could_have_been_one(given: list[int], budget: int) -> None:
    """Best fit decreasing leaves no two packs that fit together."""
    sums = [sum(given[index] for index in pack) for pack in fit(given, budget)]
    assert all(a + b > budget for a, b in combinations(sums, 2))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 640), min_size=1, max_size=30), st.integers(1, 4))
def test_the_chosen_lengths_waste_least(counts: list[int], at_most: int) -> None:
    """No other choice of as many lengths pads less."""

    def padding(chosen: list[int]) -> int:
        return sum(min(c for c in chosen if c >= count) - count for count in counts)

    chosen = choose_lengths(counts, at_most)
    assert len(chosen) <= at_most
    assert all(length % GRAIN_TOKENS == 0 for length in chosen)
    possible = sorted({-(-count // GRAIN_TOKENS) * GRAIN_TOKENS for count in counts})
    others = [
        [*some, possible[-1]]
        for size in range(at_most)
        for some in combinations(possible[:-1], min(size, len(possible) - 1))
    ]
    assert padding(chosen) == min(padding(list(other)) for other in others)


def test_a_pack_is_laid_out_in_segments() -> None:
    """Positions restart, rows predict the next trained token, padding is cut into segments."""
    pack = lay_out(
        [sample(5, 6, 7), sample(8, 9, untrained=1)], [Shape(10, 4)], pad_id=0, longest=3
    )
    assert pack.token_ids == [5, 6, 7, 8, 9, 0, 0, 0, 0, 0]
    assert pack.positions == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1]
    assert pack.boundaries == [0, 3, 5, 8, 10]
    assert pack.rows == [0, 1, 3, 0]
    assert pack.targets == [6, 7, 9, IGNORED]


def test_the_first_token_of_a_sample_is_never_predicted() -> None:
    """What stands before it belongs to another sample."""
    pack = lay_out([sample(5, 6), sample(7, 8)], [Shape(4, 2)], pad_id=0, longest=4)
    assert 7 not in pack.targets
    assert 1 not in pack.rows


def test_the_shapes_hold_every_pack() -> None:
    """Also where a short pack has more trained tokens than a longer one."""
    packs = [[sample(*range(60), untrained=50)], [sample(*range(50), untrained=1)]]
    shapes = choose_shapes(packs, at_most=2)
    for pack in packs:
        assert lay_out(pack, shapes, 0, longest=64).shape in shapes


def test_a_pack_without_a_shape_is_an_error() -> None:
    """It must not be cut in silence."""
    with pytest.raises(AssertionError, match="no shape for 3 tokens"):
        lay_out([sample(1, 2, 3)], [Shape(2, 2)], 0, longest=3)


def test_packs_never_cross_steps() -> None:
    """Each step is packed by itself, whatever would have fitted."""
    steps = [[sample(*range(1, 40))], [sample(*range(1, 30))]]
    packing = plan_packing(steps, 500, 0, shapes_at_most=4)
    assert [len(packing.packs(step)) for step in steps] == [1, 1]
    assert packing.longest == GRAIN_TOKENS
    for step in steps:
        for pack in packing.packs(step):
            assert len(pack.boundaries) <= packing.segments + 1
    assert cut(steps[0], 500) == [steps[0]]
