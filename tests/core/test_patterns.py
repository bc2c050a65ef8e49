from __future__ import annotations

import pytest

from costguard.core.patterns import GROUPS, LONGEST, PatternError, compile_pattern

STEP = "(?P<step>1)"


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "no regular expression"),
        ("loss=(?P<loss>.*)", "no group"),
        (f"{STEP}(?P<password>2)", r"not \['password'\]"),
        (STEP + "x" * LONGEST, "longer than 500"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused(pattern: str, says: str) -> None:
    """With the reason, and no other error gets out."""
    with pytest.raises(PatternError, match=says):
        compile_pattern(pattern)


def test_an_expression_of_the_greatest_length_with_every_known_group_is_taken() -> None:
    """Both limits belong to what may be."""
    known = "".join(f"(?P<{name}>.)" for name in sorted(GROUPS))
    pattern = known + "x" * (LONGEST - len(known))
    assert set(compile_pattern(pattern).groupindex) == GROUPS
