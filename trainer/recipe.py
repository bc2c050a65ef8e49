"""A recipe file: LLaMA-Factory's YAML, turned into the flags that it stands for.

One flat mapping of flag names to values, as `llamafactory-cli train recipe.yaml` takes it. Values
are kept as they are written, so that `1e-4`, which YAML 1.1 takes for a text, stays the number
that it is meant to be.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.exits import USAGE, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIXES = (".yaml", ".yml")
_NULL_WORDS = frozenset({"", "~", "null", "Null", "NULL"})
_OVERRIDE = re.compile(r"(\w+)=(.*)", re.DOTALL)
_FLAG = re.compile(r"--(\w+)")


@dataclass(frozen=True)
class Expanded:
    """A command line with its recipe's flags written out, and where each came from."""

    argv: tuple[str, ...]
    places: dict[str, str] = field(default_factory=dict)
    """file:line of each flag that the recipe gives"""

    def placed(self, refusal: Refusal) -> Refusal:
        """`refusal`, with the recipe's line as its place where it names a flag from there."""
        named = _FLAG.search(refusal.what) or _FLAG.search(refusal.where)
        place = self.places.get(named[1]) if named else None
        if place is None:
            return refusal
        what = refusal.what if _FLAG.search(refusal.what) else f"{refusal.where}: {refusal.what}"
        return Refusal(refusal.exit_code, what, where=place, hint=refusal.hint)


def expand(argv: Sequence[str]) -> Expanded:
    """`recipe.yaml [key=value …] [--flag …]` as flags alone; later ones win. Raises Refusal."""
    if not argv or not argv[0].endswith(SUFFIXES):
        return Expanded(tuple(argv))
    flags, places = _flags_of(Path(argv[0]))
    rest = []
    for word in argv[1:]:
        override = _OVERRIDE.fullmatch(word)
        if override and not word.startswith("-"):
            word = f"--{override[1]}={override[2]}"  # noqa: PLW2901 - the same word, as a flag
        named = _FLAG.match(word)
        if named:
            places.pop(named[1], None)
        rest.append(word)
    return Expanded((*flags, *rest), places)


def _flags_of(path: Path) -> tuple[list[str], dict[str, str]]:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        hint = "pip install pyyaml (transformers brings it), or give the flags themselves"
        raise Refusal(USAGE, "PyYAML is not installed", where=str(path), hint=hint) from error
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        hint = "check the path; the file must be UTF-8"
        raise Refusal(USAGE, f"it cannot be read: {error}", where=str(path), hint=hint) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        what = f"not YAML: {getattr(error, 'problem', None) or error}"
        raise Refusal(USAGE, what, where=place, hint="mend it there") from error
    if not isinstance(root, yaml.MappingNode):
        hint = "write one `flag: value` a line"
        raise Refusal(USAGE, "it is not a mapping", where=str(path), hint=hint)
    flags, places = [], {}
    for key_node, value_node in root.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        value = _value(yaml, value_node, place)
        if value is not None:
            flags.append(f"--{key_node.value}={value}")
            places[str(key_node.value)] = place
    return flags, places


def _value(yaml: Any, node: Any, place: str) -> str | None:
    """The value as a command line has it; None for null."""
    if isinstance(node, yaml.ScalarNode):
        plain = node.style is None
        return None if plain and node.value in _NULL_WORDS else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(
        isinstance(item, yaml.ScalarNode) for item in node.value
    ):
        return ",".join(item.value for item in node.value)
    raise Refusal(USAGE, "a value is not a text or a list of texts", where=place, hint="mend it")
