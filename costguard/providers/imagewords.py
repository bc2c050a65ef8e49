"""Whether an image says that it has what Qwen2.5 needs: transformers 4.37 or newer.

Source: the model card of Qwen2.5 (older versions stop with KeyError: 'qwen2').
"""

from __future__ import annotations

import re

OLDEST = (4, 37)
_TRANSFORMERS = re.compile(r"transformers\W{0,4}(\d+)\.(\d+)", re.IGNORECASE)
_FACTORY = re.compile(r"llama[\s_-]?factory\W{0,4}v?(\d+)\.(\d+)", re.IGNORECASE)
_MODEL = re.compile(r"qwen\W?2\.5", re.IGNORECASE)
OLDEST_FACTORY = (0, 9)  # the first whose templates know Qwen2.5


def says_qwen25(text: str) -> bool | None:
    """True or False where the text tells; None where it says nothing of it.

    A version that is too old counts for more than a name: it is what would fail.
    """
    found = [(int(major), int(minor)) for major, minor in _TRANSFORMERS.findall(text)]
    if found:
        return max(found) >= OLDEST
    factory = [(int(major), int(minor)) for major, minor in _FACTORY.findall(text)]
    if factory:
        return max(factory) >= OLDEST_FACTORY
    return True if _MODEL.search(text) else None
