"""A person's language: gettext's catalogue in `locale`, of sentences with `{}` for their blanks.

The trainer thinks, logs and answers programs in English, so that JSON, a log and an exit code are
the same everywhere. What it shows a person goes through `told`, which says it again in the
language that the environment names, as gettext reads it. costguard reads the same catalogue.
"""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from gettext import GNUTranslations
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CATALOGUE = Path(__file__).parent / "locale" / "zh_CN" / "LC_MESSAGES" / "trainer.mo"
DEPTH = 4  # a sentence in the blank of a sentence in the blank of a sentence
LENGTH_MAX = 4_000  # of a line worth looking at: what is longer is no sentence
_BLANK = re.compile(r"\{(\d*)\}")


def told(text: str) -> str:
    """`text`, line by line, in the person's language; as it stands where nothing fits it."""
    return _told(text, DEPTH) if _is_chinese() and len(text) <= LENGTH_MAX else text


def _is_chinese() -> bool:
    """Whether the first variable that is set names Chinese, and the terminal can show it."""
    variables = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    named = next((value for name in variables if (value := os.environ.get(name))), "")
    if not named.lower().startswith("zh"):
        return False
    try:
        "元".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _told(text: str, depth: int) -> str:
    whole = sentences().get(text)
    if whole is not None or depth == 0:
        return whole or text
    if "\n" in text:
        return "\n".join(_told(line, depth) for line in text.split("\n"))
    for pattern, chinese in _patterns():
        found = pattern.fullmatch(text)
        if found is not None:
            return _filled(chinese, [_told(part, depth - 1) for part in found.groups()])
    bare = text.lstrip(" ")
    if bare != text:
        return " " * (len(text) - len(bare)) + _told(bare, depth)
    return _in_pieces(text, depth - 1)


def _in_pieces(text: str, depth: int) -> str:
    """A list, or a sentence with an aside, piece by piece; as it stands where none is ours."""
    if text.endswith(")") and " (" in text:
        first, _mark, aside = text[:-1].rpartition(" (")
        pieces, chinese = [first, aside], "{}（{}）"  # noqa: RUF001  (Chinese marks)
    elif "; " in text:
        pieces = text.split("; ")
        chinese = "；".join(["{}"] * len(pieces))  # noqa: RUF001
    else:
        return _list(text, depth)
    found = [_told(piece, depth) for piece in pieces]
    return text if found == pieces else chinese.format(*found)


def _list(text: str, depth: int) -> str:
    """`a, b, c` where all of them are ours: a list of a person's own words stays as it is."""
    pieces = text.split(", ")
    found = [_told(piece, depth) for piece in pieces]
    ours = all(piece != told for piece, told in zip(pieces, found, strict=True))
    return "，".join(found) if ours else text  # noqa: RUF001


@lru_cache(maxsize=1)
def sentences() -> Mapping[str, str]:
    """Every sentence with its Chinese; none where the catalogue is not there."""
    try:
        with CATALOGUE.open("rb") as file:
            # gettext finds and does not list, but has kept its texts under this name since it began
            found: Mapping[str, str] = vars(GNUTranslations(file))["_catalog"]
    except OSError:
        return {}
    return {english: text for english, text in found.items() if english}


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Those with blanks: first those that begin with words of their own, the longest first."""
    found = [item for item in sentences().items() if "{}" in item[0]]
    found.sort(key=lambda item: (item[0].startswith("{}"), -len(item[0].replace("{}", ""))))
    return tuple(
        (re.compile("(.*?)".join(map(re.escape, english.split("{}")))), chinese)
        for english, chinese in found
    )


def _filled(chinese: str, parts: list[str]) -> str:
    """The Chinese with its blanks filled: `{}` in order, `{2}` where the order is another."""
    in_order = iter(parts)
    return _BLANK.sub(lambda b: parts[int(b[1]) - 1] if b[1] else next(in_order), chinese)
