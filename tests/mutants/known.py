"""Mutants that are the same program in other words, each with the reason."""

from __future__ import annotations

ALIKE: dict[tuple[str, str, str], str] = {
    ("core/tariff", "if now_ms <= started_ms:", "if now_ms < started_ms:"): (
        "at its very start nothing is owed yet, so it is paid until its start either way"
    ),
}
