"""Chinese or English: gettext's catalogues, English being the key and the fall-back."""

from __future__ import annotations

import os
import sys
from functools import cache
from gettext import GNUTranslations, NullTranslations
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LANGUAGES = ("en", "zh")
LOCALE = Path(__file__).with_name("locale")
# The trainer's own, which travels with it: read by its place, for nothing of it is imported here.
LOCALES = {"trainer": LOCALE.parents[1] / "trainer" / "locale"}
FOLDERS = {"zh": "zh_CN"}  # as gettext names them; English has no catalogue

_selected = ["en"]


def _(text: str) -> str:
    """`text` in the language that was selected; as it stands where there is no translation."""
    return translations(_selected[0]).gettext(text)


def select(explicit: str | None = None) -> str:
    """Choose the language for this process and return it: `explicit`, the config's, the locale's.

    A terminal that cannot show Chinese gets English, whoever asked: question marks help nobody.
    """
    chosen = explicit or _from_config() or _from_locale()
    if chosen == "zh" and not _stdout_shows("元"):
        chosen = "en"
    _selected[0] = chosen
    return chosen


def selected() -> str:
    """The language that was chosen last: English before any was."""
    return _selected[0]


@cache
def translations(language: str, domain: str = "costguard") -> NullTranslations:
    """One language's texts of a domain: `costguard`; `daemon` and `trainer`, to be retold.

    The file is opened by its place, not searched for: gettext's search tries every variant of the
    locale's name, and its messages are needed before anything is printed.
    """
    if language not in FOLDERS:
        return NullTranslations()
    path = catalogue_path(language, domain)
    if domain in LOCALES and not path.exists():  # said by whoever needs the trainer
        return NullTranslations()
    with path.open("rb") as file:
        return GNUTranslations(file)


def catalogue_path(language: str, domain: str) -> Path:
    """The compiled file; the translators' lies beside it."""
    return LOCALES.get(domain, LOCALE) / FOLDERS[language] / "LC_MESSAGES" / f"{domain}.mo"


def environment() -> dict[str, str]:
    """What tells a program of ours to speak the language selected: gettext's own variable."""
    return {"LANGUAGE": FOLDERS.get(selected(), "en")}


def catalogue(language: str, domain: str = "costguard") -> Mapping[str, str]:
    """Every message of one language in a domain, by its English text."""
    # gettext finds and does not list, but has kept its texts under this name since it began; the
    # header stands there as the translation of nothing.
    found: Mapping[str, str] = vars(translations(language, domain)).get("_catalog", {})
    return {english: text for english, text in found.items() if english}


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
