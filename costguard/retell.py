"""The daemon's own sentences in another language.

The daemon, the agent and the core speak one language: what is stored, logged and sent is English.
Whoever shows it to a person puts it through here. The domain `daemon` (and `trainer`, for what its
log and its documents say) has each sentence with
blanks ({} or named); a text that fits one is said again in Chinese with what stood in the blanks,
which is retold itself. So rows of earlier versions are read too, and what has no translation (a
platform's own words) stays as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from costguard.lang import catalogue, selected

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLANK = re.compile(r"\{(\d*)(:word)?\}")
FEW_LETTERS = 5
LENGTH_MAX = 4_000  # of a text worth looking at: what is longer is a log
PIECED_MAX = 600  # of a text put together of several; a bound on the work, as is the next
PIECES_MAX = 12
_MARK = re.compile(r"[;:] | \(")


def retell(text: str, language: str | None = None) -> str:
    """`text` in `language`, else in the one selected; unchanged where nothing fits it."""
    if (language or selected()) != "zh" or not text or len(text) > LENGTH_MAX:
        return text
    return _retold(text, depth=5)


@lru_cache(maxsize=1)
def sentences() -> Mapping[str, str]:
    """Every sentence of the daemon's and of the trainer's with its Chinese."""
    return {**catalogue("zh", "trainer"), **catalogue("zh", "daemon")}


def retell_line(line: str) -> str:
    """As `retell`, for a line of a training's log: what is no sentence of ours is not taken apart.

    There may be many thousands of them, of which most are somebody else's.
    """
    if selected() != "zh" or not line or len(line) > LENGTH_MAX:
        return line
    return _as_one(line, depth=3) or line


def _retold(text: str, depth: int) -> str:
    return _as_one(text, depth) or _in_pieces(text, depth)


def _as_one(text: str, depth: int) -> str | None:
    """A text that is one sentence of ours; None where it is none."""
    whole = sentences().get(text)
    if whole is not None or depth == 0:
        return whole or text
    for words, pattern, chinese in _patterns():
        found = pattern.fullmatch(text) if words in text else None
        if found is not None:
            parts = [_retold(part, depth - 1) for part in found.groups()]
            return _filled(chinese, parts)
    return None


def _in_pieces(text: str, depth: int) -> str:
    """What is put together of several texts, as `what: why; and why (what to do)`, piece by piece.

    It stays as it is where no piece is ours: a platform's own words keep their marks.
    """
    parts, chinese = _cut(text)
    if len(text) > PIECED_MAX or len(_MARK.findall(text)) > PIECES_MAX:
        return text
    if len(parts) < 2:
        return _list(text, depth)
    told = [_retold(part, depth) for part in parts]
    return text if told == list(parts) else chinese.format(*told)


def _list(text: str, depth: int) -> str:
    """`a, b, c` where all of them are sentences of ours: other lists stay as they are."""
    parts = text.split(", ")
    told = [_as_one(part, depth) or part for part in parts]
    ours = all(chinese != part for chinese, part in zip(told, parts, strict=True))
    return "，".join(told) if ours else text  # noqa: RUF001  (Chinese marks)


def _cut(text: str) -> tuple[tuple[str, ...], str]:
    """The two halves of a text, the outermost mark first, and how they are put together again."""
    if text.endswith(")"):
        opened = 0
        for at in range(len(text) - 1, 1, -1):
            opened += (text[at] == ")") - (text[at] == "(")
            if opened == 0:
                cut = (text[: at - 1], text[at + 1 : -1]) if text[at - 1] == " " else ()
                return cut, "{}（{}）"  # noqa: RUF001  (Chinese marks)
    marks = (("; ", "{}；{}"), (": ", "{}：{}"), ("：", "{}：{}"))  # noqa: RUF001  (Chinese marks)
    for mark, chinese in marks:
        first, found, rest = text.partition(mark)
        if first and found:
            if _has_the_mark(mark + rest, mark):  # told with what goes before it
                return (first, mark + rest), "{}{}"
            return (first, rest), chinese
    return (), ""


def _has_the_mark(text: str, mark: str) -> bool:
    """Whether `text`, which begins with `mark`, is a sentence of ours that does."""
    begun = re.escape(mark)
    return text in sentences() or any(
        pattern.pattern.startswith(begun) and pattern.fullmatch(text)
        for _words, pattern, _chinese in _patterns()
    )


def _filled(chinese: str, parts: list[str]) -> str:
    """The Chinese with its blanks filled: `{}` in order, `{2}` where the order is another.

    `{:word}` is one of our own words, such as a state; any other blank may hold a name.
    """
    in_order = iter(parts)

    def fill(blank: re.Match[str]) -> str:
        part = parts[int(blank[1]) - 1] if blank[1] else next(in_order)
        return _words().get(part, part) if blank[2] else part

    return _BLANK.sub(fill, chinese)


@lru_cache(maxsize=1)
def _words() -> Mapping[str, str]:
    return {**catalogue("zh"), **sentences()}


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """Sentences with blanks: the outermost first, which begin with words of their own.

    Then those with the most words of their own. The longest of these stand by themselves, since to
    look for them is much cheaper than to match.
    """
    with_blanks = [item for item in sentences().items() if "{}" in item[0]]
    with_blanks.sort(key=lambda item: (item[0].startswith("{}"), -len(item[0].replace("{}", ""))))
    return tuple(
        (max(english.split("{}"), key=len), _pattern(english), chinese)
        for english, chinese in with_blanks
    )


def _pattern(english: str) -> re.Pattern[str]:
    pieces = re.split(r"(\{\})", english)
    # A sentence of hardly a word of its own would fit too much: its blanks hold single words.
    few = sum(char.isalpha() for char in english) <= FEW_LETTERS
    blank = r"(\S*?)" if few else "(.*?)"
    words = "".join(blank if piece == "{}" else re.escape(piece) for piece in pieces)
    return re.compile(words, re.DOTALL)
