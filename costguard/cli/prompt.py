"""Ask a person at a terminal, or take what flags say where nobody can be asked.

Questions go to standard error. A secret is read without an echo, and never from an argument.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

from costguard.cli.text import screen_of, wrap
from costguard.errors import EXIT_USAGE, UserError
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

YES = frozenset({"y", "yes", "是", "好"})


def tell(text: str) -> None:
    """A message for a person, in lines that fit."""
    print("\n".join(wrap(text, screen_of(sys.stderr).columns)), file=sys.stderr, flush=True)


def _as_it_is(text: str) -> str:
    return text


class Prompt:
    """Answers, each from its flag if it was given, else from the person, else its default."""

    def __init__(self) -> None:
        self.can_ask = sys.stdin.isatty() and sys.stderr.isatty()

    def text(
        self,
        question: str,
        flag: str,
        given: str | None,
        default: str | None = None,
        check: Callable[[str], str] = _as_it_is,
    ) -> str:
        """One answer, as `check` returns it; asked again while `check` raises ValueError.

        `default` None: there must be an answer; "": there may be none. UserError names the flag
        where nobody can be asked, or where what it says will not do.
        """
        if given is None and not self.can_ask:
            given = default
            if given is None:
                what = _("{flag} is missing, and nobody can be asked here").format(flag=flag)
                raise UserError("usage", what, question, f"{flag} …", EXIT_USAGE)
        if given is not None:
            try:
                return check(given) if given else given
            except ValueError as error:
                raise UserError("usage", str(error), flag, question, EXIT_USAGE) from None
        while True:
            shown = f" [{default}]" if default else ""
            answer = self._line(f"{question}{shown}: ") or default
            if answer is None:
                continue
            try:
                return check(answer) if answer else answer
            except ValueError as error:
                tell(f"  {retell(str(error))}")

    def choice(self, question: str, flag: str, given: str | None, known: Sequence[str]) -> str:
        """One of `known`, by its name or its number in that order; the first is the default."""

        def check(text: str) -> str:
            if text.isdecimal() and 1 <= int(text) <= len(known):
                return known[int(text) - 1]
            if text in known:
                return text
            names = ", ".join(known)
            raise ValueError(_("{value} is none of: {names}").format(value=repr(text), names=names))

        return self.text(question, flag, given, known[0] if self.can_ask else None, check)

    def yes(self, question: str, *, default: bool) -> bool:
        """A yes or no; the default where nobody can be asked."""
        if not self.can_ask:
            return default
        marks = "[Y/n]" if default else "[y/N]"
        answer = self._line(f"{question} {marks} ").lower()
        return default if not answer else answer in YES

    def secret(self, question: str) -> str:
        """What was typed, which nothing shows; "" for nothing, asked again for what is no token."""
        while True:
            try:
                answer = getpass.getpass(f"{question}: ", stream=sys.stderr).strip()
            except EOFError:
                raise _ended() from None
            if not answer or is_token(answer):
                return answer
            tell("  " + _("a token is one word without blanks: paste it again"))

    def _line(self, question: str) -> str:
        print(question, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise _ended()
        return line.strip()


def is_token(text: str) -> bool:
    """Whether a text can be a token, a key or an address: one word that can be seen."""
    return bool(text) and text.isprintable() and not any(char.isspace() for char in text)


def _ended() -> UserError:
    what = _("the answers ended too early: nothing was written")
    return UserError("usage", what, "init", "costguard init --help", EXIT_USAGE)
