"""Leaving out of a module what is not used: pynvml is 8,000 lines, and the agent calls thirty.

Loading all of it costs the agent seven mebibytes and a good part of a second of the instance's
time; what is kept is as it was written.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# pynvml makes its error classes by walking through the names of its own module.
BY_NAME = re.compile(r"^NVML_ERROR_")
USED = re.compile(r"^(nvml|NVML)\w+$")


def names_used(sources: Iterable[str]) -> set[str]:
    """The attributes that the agent's modules ask of pynvml, by their prefix."""
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    return {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and USED.match(node.attr)
    }


def slim(source: str, wanted: Iterable[str]) -> str:
    """`source` with only the top-level definitions that `wanted` needs, directly or not.

    Statements that do something (imports, calls, conditions) stay, with what they need; so does
    what stands before the first of all, which is the licence.
    """
    tree = ast.parse(source)
    definitions: dict[str, list[ast.stmt]] = {}
    todo = list(wanted)
    kept: set[ast.stmt] = set()
    for statement in tree.body:
        names = _defined(statement)
        for name in names:
            definitions.setdefault(name, []).append(statement)
        if names is _NOT_A_DEFINITION or any(BY_NAME.match(name) for name in names):
            kept.add(statement)
            todo += _mentioned(statement)
    while todo:
        for statement in definitions.get(todo.pop(), ()):
            if statement not in kept:
                kept.add(statement)
                todo += _mentioned(statement)
    lines = source.splitlines(keepends=True)
    licence = "".join(lines[: _first_line(tree.body[0]) - 1]) if tree.body else source
    return licence + "".join(
        "".join(lines[_first_line(statement) - 1 : statement.end_lineno])
        for statement in tree.body
        if statement in kept
    )


_NOT_A_DEFINITION: tuple[str, ...] = ()


def _defined(statement: ast.stmt) -> tuple[str, ...]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return (statement.name,)
    if isinstance(statement, ast.Assign):
        names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        if len(names) == len(statement.targets):
            return tuple(names)
    return _NOT_A_DEFINITION


def _mentioned(statement: ast.stmt) -> list[str]:
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]


def _first_line(statement: ast.stmt) -> int:
    """A definition begins with its decorators."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return min([statement.lineno, *(one.lineno for one in statement.decorator_list)])
    return statement.lineno
