"""What Typer says by itself, in the language selected: the headings and marks of its help."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING

from costguard.lang import _, selected

if TYPE_CHECKING:
    from collections.abc import Iterator


def help_in_words(text: str) -> str:
    """A help page with our own words for Typer's; English stays as it came."""
    if selected() == "en":
        return text
    for pattern, word in _words():
        text = re.sub(pattern, word, text)
    return text


@contextlib.contextmanager
def printed_in_words() -> Iterator[None]:
    """What is printed meanwhile is a help page, and comes out as `help_in_words` has it."""
    page = io.StringIO()
    try:
        with contextlib.redirect_stdout(page):
            yield
    finally:
        print(help_in_words(page.getvalue()), end="")


def _words() -> tuple[tuple[str, str], ...]:
    return (
        (r"(?m)^Usage: ", _("Usage: ")),
        (r"(?m)^Options:$", _("Options:")),
        (r"(?m)^Arguments:$", _("Arguments:")),
        (r"(?m)^Commands:$", _("Commands:")),
        (r"\[required\]", _("[required]")),
        (r"\[default: ([^\]]*)\]", _("[default: {}]").format(r"\1")),
        (r"Show this message and exit\.", _("show this help")),
        (r"Install completion for the current shell\.", _("install completion for this shell")),
        (
            r"Show completion for the current shell, to copy it or\s+customize the installation\.",
            _("print the completion for this shell, to be put where you like"),
        ),
    )
