"""Samples that say nearly the same, and questions that are answered in two ways.

Two samples are near-duplicates if their texts share 85 % or more of their three-character pieces
(Jaccard similarity), letters and digits alone being looked at. None is missed, as a hash of the
texts might: a set's rarest pieces are indexed, as many as two sets of that similarity must have
one of in common (prefix filtering: Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity
Search", 2007). Standard library.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.sample import Sample

THRESHOLD = 0.85
PIECE_CHARACTERS = 3
LETTERS_MAX = 5_000
"""Of a longer sample its beginning alone is compared: a row of 10 MB would take a minute."""


def near_duplicates(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """(line, line of the first sample like it), for each sample that is like an earlier one.

    Samples with exactly the same texts are not among them. Compared is with those that are no
    near-duplicates themselves, so that a file of one row in a thousand variants takes no longer.
    """
    sets = _distinct_sets(samples)
    frequency = Counter(piece for _line, pieces in sets for piece in pieces)
    index: dict[str, list[int]] = defaultdict(list)
    found = []
    for number, (line, pieces) in enumerate(sets):
        rarest = sorted(pieces, key=lambda piece: (frequency[piece], piece))
        prefix = rarest[: len(pieces) - math.ceil(THRESHOLD * len(pieces)) + 1]
        candidates = sorted({other for piece in prefix for other in index[piece]})
        like = next((n for n in candidates if _similar(pieces, sets[n][1])), None)
        if like is not None:
            found.append((line, sets[like][0]))
            continue
        for piece in prefix:
            index[piece].append(number)
    return found


def conflicts(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """(line, line of the first sample with the same question), where the answers differ."""
    first: dict[tuple[object, ...], Sample] = {}
    found = []
    for sample in samples:
        key = (sample.system, sample.history, sample.question.strip())
        earlier = first.setdefault(key, sample)
        if earlier.answer.strip() != sample.answer.strip():
            found.append((sample.line, earlier.line))
    return found


def _distinct_sets(samples: Sequence[Sample]) -> list[tuple[int, frozenset[str]]]:
    """(line, pieces) of each sample whose texts no earlier one has."""
    seen: set[tuple[str, ...]] = set()
    sets = []
    for sample in samples:
        if sample.texts() not in seen:
            seen.add(sample.texts())
            said = "".join(text for turn in sample.turns() for text in turn)
            sets.append((sample.line, _pieces(said)))
    return sets


def _pieces(text: str) -> frozenset[str]:
    letters = "".join(c for c in text[: 2 * LETTERS_MAX].lower() if c.isalnum())[:LETTERS_MAX]
    last = max(1, len(letters) - PIECE_CHARACTERS + 1)
    return frozenset(letters[start : start + PIECE_CHARACTERS] for start in range(last))


def _similar(one: frozenset[str], other: frozenset[str]) -> bool:
    if min(len(one), len(other)) < THRESHOLD * max(len(one), len(other)):
        return False
    common = len(one & other)
    return common >= THRESHOLD * (len(one) + len(other) - common)
