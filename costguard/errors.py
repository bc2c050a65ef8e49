"""Errors that a person meets: what was wrong, where, and what to do.

CostguardError
└── UserError      something the person can put right; carries a code, a place and a hint
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_REFUSED = 7


class CostguardError(Exception):
    """The root of every error that costguard raises on purpose."""


@dataclass
class UserError(CostguardError):
    """What was wrong, where, and what to do about it; `exit_code` is the process's.

    `code` is a stable word for scripts. The default exit code is 7, refused before renting;
    usage mistakes carry 2.
    """

    code: str
    what: str
    where: str = ""
    hint: str = ""
    exit_code: int = EXIT_REFUSED

    def __str__(self) -> str:
        """One line for logs."""
        return " ".join(part for part in (self.what, self.where, self.hint) if part)

    def to_json(self) -> dict[str, str]:
        """The error as the JSON contract has it, without its envelope."""
        return {"code": self.code, "what": self.what, "where": self.where, "hint": self.hint}


def in_a_sentence(error: Exception) -> str:
    """What was wrong and, in brackets, what to do: as it can be retold in another language."""
    if isinstance(error, UserError) and error.hint:
        return f"{error.what} ({error.hint})"
    return error.what if isinstance(error, UserError) else str(error)
