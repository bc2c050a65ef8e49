"""Every small change that can be made to a module: an operator, a constant, a condition."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SUMS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
UNCHANGED = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
NAMES = {"min": "max", "max": "min", "ceil_div": "_floor_div", "sorted": "list"}


@dataclass(frozen=True)
class Mutant:
    """One changed module: where, what, and its whole tree."""

    module: str
    line: int
    before: str
    after: str
    tree: ast.Module

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it while lines move."""
        return self.module, self.before, self.after


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Each with one change, in the order of the source."""
    count = len([*_sites(ast.parse(source))])
    for index in range(count):
        tree = ast.parse(source)
        node, statement, change = [*_sites(tree)][index]
        before = ast.unparse(statement)
        change()
        after = ast.unparse(statement)
        line = getattr(node, "lineno", statement.lineno)
        changed = _helped(deepcopy(tree))
        yield Mutant(module, line, _short(before), _short(after), changed)


def _short(text: str) -> str:
    """The first line that matters of a statement: a block is named by its head."""
    return text.splitlines()[0]


def _helped(tree: ast.Module) -> ast.Module:
    """With the one function that a change may name and the module does not have."""
    helper = ast.parse("def _floor_div(a, b):\n    return a // b\n").body[0]
    place = next(
        (n for n, node in enumerate(tree.body) if not isinstance(node, (ast.ImportFrom, ast.Expr))),
        len(tree.body),
    )
    tree.body.insert(place, helper)
    return ast.fix_missing_locations(tree)


Site = tuple[ast.AST, ast.stmt, Callable[[], None]]


def _sites(tree: ast.Module) -> Iterator[Site]:
    """Where something can be changed: the node, its statement, and how to change it."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.stmt) and not _is_left_alone(statement):
            for node in _own(statement):
                for change in _changes(node):
                    yield node, statement, change


def _is_left_alone(statement: ast.stmt) -> bool:
    """Imports, and what only a type checker sees; of a function or class, all but its body."""
    if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        return True
    return isinstance(statement, UNCHANGED)


def _own(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement, without those of the statements inside it."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop(0)
        yield node
        waiting += [
            child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)
        ]


Changes = Iterator[Callable[[], None]]


def _changes(node: ast.AST) -> Changes:
    """Each way to change this one node."""
    for kind, change in CHANGES:
        if isinstance(node, kind):
            yield from change(node)


def _compared(node: ast.Compare) -> Changes:
    for place, operator in enumerate(node.ops):
        if type(operator) in COMPARISONS:
            yield _setter(node.ops, place, COMPARISONS[type(operator)]())


def _reckoned(node: ast.BinOp) -> Changes:
    other = SUMS.get(type(node.op))
    if other is not None:
        yield lambda: setattr(node, "op", other())


def _joined(node: ast.BoolOp) -> Changes:
    yield lambda: setattr(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())


def _signed(node: ast.UnaryOp) -> Changes:
    operand = node.operand
    if isinstance(node.op, (ast.Not, ast.USub)):
        yield lambda: setattr(node, "operand", ast.UnaryOp(node.op, operand))


def _constant(node: ast.Constant) -> Changes:
    value = node.value
    if isinstance(value, bool):
        yield lambda: setattr(node, "value", not value)
    elif isinstance(value, int):
        yield lambda: setattr(node, "value", value + 1)


def _called(node: ast.Call) -> Changes:
    function = node.func
    if isinstance(function, ast.Name) and function.id in NAMES:
        yield lambda: setattr(function, "id", NAMES[function.id])


def _conditioned(node: ast.If | ast.IfExp | ast.While) -> Changes:
    test = node.test
    yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), test))


CHANGES: tuple[tuple[Any, Callable[[Any], Changes]], ...] = (
    (ast.Compare, _compared),
    (ast.BinOp, _reckoned),
    (ast.BoolOp, _joined),
    (ast.UnaryOp, _signed),
    (ast.Constant, _constant),
    (ast.Call, _called),
    ((ast.If, ast.IfExp, ast.While), _conditioned),
)


def _setter(operators: list[ast.cmpop], place: int, operator: ast.cmpop) -> Callable[[], None]:
    def change() -> None:
        operators[place] = operator

    return change
