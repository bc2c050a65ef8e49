"""The expression that finds progress in the output of a command: what it must and may name."""

from __future__ import annotations

import re

WHOLE = frozenset({"step", "total_steps"})
GROUPS = WHOLE | {"loss", "eval_loss", "lr", "epoch"}
LONGEST = 500


class PatternError(ValueError):
    """The expression cannot be used; the text says why."""


def compile_pattern(text: str) -> re.Pattern[str]:
    """The expression; raises PatternError unless it names a group `step`, and only known ones."""
    if len(text) > LONGEST:
        raise PatternError(f"it is longer than {LONGEST} characters")
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"it is no regular expression: {error}") from error
    names = set(pattern.groupindex)
    if "step" not in names:
        raise PatternError("it has no group (?P<step>...)")
    if names - GROUPS:
        raise PatternError(f"its groups may be {sorted(GROUPS)}, not {sorted(names - GROUPS)}")
    return pattern
