"""Whether a data set's answers speak in one tone: a model that is shown two learns to mix them.

Counted is what can be counted without a judgement: how the customer is addressed (您, 你, 亲), and
whether answers carry chatty particles or emoji. A tone is mixed where a marker stands in some
answers and its rival in others; the lines of the rarer one are named. Standard library.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.sample import Sample

SHOWN_LINES = 20
RARE_PERCENT_MAX = 40
"""A marker in more answers than this is no slip but a style, and is not called mixed by itself."""

ADDRESSES = {
    "您": re.compile("您"),
    "你": re.compile("你"),
    "亲": re.compile(r"(?<![母父双相])亲(?=[，,～~！!、 们]|亲)"),
}
MANNERS = {
    "particles": re.compile(r"[哦呢啦呀哈哟嘛噢喔](?=[。！？!?，,～~\s]|$)"),
    "emoji": re.compile(
        "[\U0001f300-\U0001faff\u2600-\u27bf]|[（(][^（()）]{0,4}[≧▽≦ω´`・][^（()）]{0,4}[）)]"
    ),
}


def judge_tone(samples: Sequence[Sample]) -> dict[str, Any]:
    """`{"answers", "markers": {name: count}, "mixed": [{"what", "count", "lines"}]}`."""
    answers = [(s.line, "\n".join(s.trained_answers())) for s in samples]
    lines = {
        name: [line for line, answer in answers if pattern.search(answer)]
        for name, pattern in {**ADDRESSES, **MANNERS}.items()
    }
    mixed = []
    used = [name for name in ADDRESSES if lines[name]]
    if len(used) > 1:
        most = max(used, key=lambda name: len(lines[name]))
        mixed += [
            _finding(f"{name} where most answers say {most}", lines[name])
            for name in used
            if name != most
        ]
    mixed += [
        _finding(f"{name} where most answers have none", lines[name])
        for name in MANNERS
        if lines[name] and 100 * len(lines[name]) <= RARE_PERCENT_MAX * len(answers)
    ]
    return {
        "answers": len(answers),
        "markers": {name: len(found) for name, found in lines.items()},
        "mixed": mixed,
    }


def _finding(what: str, lines: list[int]) -> dict[str, Any]:
    return {"what": what, "count": len(lines), "lines": lines[:SHOWN_LINES]}
