"""Packs: the samples of one optimizer step laid end to end, each its own segment.

Samples are never cut, and never packed across steps, so what a step learns from is the sampler's
choice alone; packing only says how much of it the card sees at once. A pack is padded to one of a
few fixed lengths, because a compiled or captured program is made for each length that occurs.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.template import IGNORED, Encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GRAIN_TOKENS = 64
"""Lengths are multiples of it: what matrix units and bitsandbytes' blocks divide evenly."""


@dataclass(frozen=True)
class Shape:
    """The fixed sizes of a pack: what a compiled program is made for."""

    tokens: int
    rows: int
    """How many supervised tokens it has room for."""


@dataclass(frozen=True)
class Packing:
    """How the steps of one run are packed; the same for every step, so that shapes recur."""

    budget: int
    shapes: tuple[Shape, ...]
    segments: int
    """At least as many as any pack has."""
    longest: int
    """At least as many tokens as any segment has: attention is told it once and for all."""
    pad_id: int

    def packs(self, samples: Sequence[Encoded]) -> list[Pack]:
        """The packs of one step's samples."""
        return [
            lay_out(pack, self.shapes, self.pad_id, longest=self.longest)
            for pack in cut(samples, self.budget)
        ]


@dataclass(frozen=True)
class Pack:
    """Samples end to end, then padding. Lists of `shape.tokens` unless said otherwise."""

    shape: Shape
    token_ids: list[int]
    positions: list[int]
    """Restart at 0 with every segment."""
    boundaries: list[int]
    """Where each segment begins, then the end; padding is cut into segments of its own."""
    rows: list[int]
    """The places whose hidden state predicts a supervised token, `shape.rows` of them."""
    targets: list[int]
    """What each row is to predict; IGNORED where `rows` is only filled up."""


def plan_packing(
    steps: Iterable[Sequence[Encoded]], budget: int, pad_id: int, *, shapes_at_most: int
) -> Packing:
    """The packing of a run whose steps have these samples: all its packs are looked at."""
    packs = [pack for samples in steps for pack in cut(samples, budget)]
    longest = max(len(sample.token_ids) for pack in packs for sample in pack)
    longest = -(-longest // GRAIN_TOKENS) * GRAIN_TOKENS
    shapes = choose_shapes(packs, shapes_at_most)
    segments = max(map(len, packs)) + -(-shapes[-1].tokens // longest)
    return Packing(budget, tuple(shapes), segments, longest, pad_id)


def cut(samples: Sequence[Encoded], budget: int) -> list[list[Encoded]]:
    """The samples of each pack of a step."""
    lengths = [len(sample.token_ids) for sample in samples]
    return [[samples[index] for index in pack] for pack in fit(lengths, budget)]


def fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which samples (by their index) share a pack of at most `budget` tokens; best fit decreasing.

    A sample longer than the budget gets a pack of its own. Within a pack the order is kept.
    The same lengths give the same packs on any machine.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [p for p in range(len(packs)) if room[p] >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda p: (room[p], p))
        else:
            best = len(packs)
            packs.append([])
            room.append(budget)
        packs[best].append(index)
        room[best] -= lengths[index]
    return [sorted(pack) for pack in packs]


def choose_lengths(counts: Iterable[int], at_most: int) -> list[int]:
    """At most `at_most` lengths for packs of `counts` tokens, with the least padding in all.

    Dynamic programming over the lengths that occur, rounded up to GRAIN_TOKENS; a few hundred
    lengths at most, since a pack has at most its budget.
    """
    weights: dict[int, int] = {}
    for count in counts:
        length = -(-count // GRAIN_TOKENS) * GRAIN_TOKENS
        weights[length] = weights.get(length, 0) + 1
    lengths = sorted(weights)
    if len(lengths) <= at_most:
        return lengths
    # best[k][j]: least padded tokens for the j shortest lengths with k lengths, the j-th chosen.
    number = len(lengths)
    infinite = float("inf")
    best = [[infinite] * (number + 1) for _ in range(at_most + 1)]
    came_from = [[0] * (number + 1) for _ in range(at_most + 1)]
    best[0][0] = 0
    for k in range(1, at_most + 1):
        for j in range(1, number + 1):
            cost = 0
            for i in range(j - 1, -1, -1):
                cost += weights[lengths[i]] * (lengths[j - 1] - lengths[i])
                if best[k - 1][i] + cost < best[k][j]:
                    best[k][j] = best[k - 1][i] + cost
                    came_from[k][j] = i
    chosen: list[int] = []
    j = number
    for k in range(at_most, 0, -1):
        chosen.append(lengths[j - 1])
        j = came_from[k][j]
    return chosen[::-1]


def choose_shapes(packs: Sequence[Sequence[Encoded]], at_most: int) -> list[Shape]:
    """The shapes, shortest first, into which every one of `packs` fits."""
    counts = [(tokens_in(pack), supervised_in(pack)) for pack in packs]
    lengths = choose_lengths((tokens for tokens, _rows in counts), at_most)
    rows = dict.fromkeys(lengths, 1)
    for tokens, supervised in counts:
        length = lengths[bisect_left(lengths, tokens)]
        rows[length] = max(rows[length], supervised)
    return [
        Shape(length, min(length, -(-rows[length] // GRAIN_TOKENS) * GRAIN_TOKENS))
        for length in lengths
    ]


def lay_out(
    samples: Sequence[Encoded], shapes: Sequence[Shape], pad_id: int, *, longest: int
) -> Pack:
    """The pack of `samples` in the shortest of `shapes` that holds it.

    No segment of the padding is longer than `longest`, which no sample is either: attention is
    told that number once and for all.
    """
    tokens, supervised = tokens_in(samples), supervised_in(samples)
    fitting = (s for s in shapes if s.tokens >= tokens and s.rows >= supervised)
    shape = next(fitting, None)
    if shape is None:
        raise AssertionError(f"no shape for {tokens} tokens, {supervised} of them supervised")
    token_ids: list[int] = []
    positions: list[int] = []
    boundaries = [0]
    rows: list[int] = []
    targets: list[int] = []
    for sample in samples:
        start = len(token_ids)
        for place, label in enumerate(sample.labels[1:]):
            if label != IGNORED:
                rows.append(start + place)
                targets.append(label)
        token_ids += sample.token_ids
        positions += range(len(sample.token_ids))
        boundaries.append(len(token_ids))
    while len(token_ids) < shape.tokens:
        padding = min(longest, shape.tokens - len(token_ids))
        token_ids += [pad_id] * padding
        positions += range(padding)
        boundaries.append(len(token_ids))
    rows += [0] * (shape.rows - len(rows))
    targets += [IGNORED] * (shape.rows - len(targets))
    return Pack(shape, token_ids, positions, boundaries, rows, targets)


def tokens_in(samples: Iterable[Encoded]) -> int:
    """How many tokens the samples have together."""
    return sum(len(sample.token_ids) for sample in samples)


def supervised_in(samples: Iterable[Encoded]) -> int:
    """How many of their tokens are trained: the first of a sample has nothing that predicts it."""
    return sum(sample.supervised() for sample in samples)
