"""Chinese or English: a catalogue of messages, English being the key and the fall-back."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

LANGUAGES = ("en", "zh")

_catalogue: dict[str, str] = {}
_selected = ["en"]


def _(text: str) -> str:
    """`text` in the language that was selected; as it stands where there is no translation."""
    return _catalogue.get(text, text)


def select(explicit: str | None = None) -> str:
    """Choose the language for this process and return it: `explicit`, the config's, the locale's.

    A terminal that cannot show Chinese gets English, whoever asked: question marks help nobody.
    """
    chosen = explicit or _from_config() or _from_locale()
    if chosen == "zh" and not _stdout_shows("元"):
        chosen = "en"
    _catalogue.clear()
    if chosen == "zh":
        _catalogue.update(catalogue("zh"))
    _selected[0] = chosen
    return chosen


def selected() -> str:
    """The language that `select` last chose."""
    return _selected[0]


def catalogue(language: str) -> dict[str, str]:
    """Every message of one language, by its English text."""
    path = Path(__file__).with_name("locale") / f"{language}.json"
    messages: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return messages


def _from_config() -> str | None:
    """The config's `lang`; None where it has none or cannot be read, which is said elsewhere."""
    from costguard import paths  # noqa: PLC0415  (paths speaks through this module)

    try:
        text = paths.config_path().read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return None
    from costguard.tomlfile import TOMLDecodeError, loads  # noqa: PLC0415  (only if there is one)

    try:
        named = loads(text).get("lang")
    except TOMLDecodeError:
        return None
    return named if named in LANGUAGES else None


def _from_locale() -> str:
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(variable)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def _stdout_shows(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
