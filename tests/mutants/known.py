"""Mutants that are the same program in other words, each with the reason."""

from __future__ import annotations

ALIKE: dict[tuple[str, str, str], str] = {}
