"""The sentences that the daemon can say, read off its source: what has to have a Chinese text.

A literal counts if it reads like a sentence and may come before a person: what is logged, asserted,
told to the database or only names a place in a file does not.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import costguard

ROOT = Path(costguard.__file__).parent
PLACES = (
    "daemon/*.py",
    "core/*.py",
    "demo/scenarios.py",
    "demo/stage.py",
    "report/*.py",
    "notify/*.py",
    "store/attest.py",
    "store/backup.py",
    "store/database.py",
    "store/ledger.py",
    "store/migrate.py",
    "providers/*.py",
    "remote/*.py",
    "agent/*.py",
    "agent/commands/*.py",
)
# Files of which no text is a sentence for a person.
NOT = {
    *("report/ledger_journal.py", "report/ledger_csv.py", "report/series.py", "report/advice.py"),
    *("agent/cli.py", "agent/tail.py"),  # its own --help; the marks of a log that was cut
}
NOT_SENTENCES = re.compile(
    r"^(\[|costguard |budget set|PRAGMA|SELECT|INSERT|for f in|\^|tuple\[|%\(|option |commodity )"
    r"|^\n|^(mkdir|runpodctl|vastai|pip install|import sys\w*|from \S+ import)\b"
    r"|^#cloud-config|^mutation|^\{ \w+ \{|^\w+ = [^;]*$"
    r"|^(autodl|aws|chenyu|compshare|local|runpod|vast|xiangongyun) [\w{} -]+$|^agent\.pyz hash$"
    r"|^[\w. ]+( > [\w ]+)+$"  # the way through a console
    r"|^NVIDIA GeForce |^AutoDL |^优云"  # names
)
LOGGERS = ("log", "logging")
# Patterns of what a training's log says, and words that are only ever part of a hash or a file.
ONLY_MATCHED = {
    *("out of memory", "no space left on device", "disk quota exceeded", "undefined dataset"),
    *("no module named", "cuda driver", "no kernel image", "command not found"),
    *("no cuda gpus are available", "The conflict is caused by:", "for help visit"),
    " depends on | requested ",
    *("--gpu, --image", "import signal; signal.pause()"),  # a place, and what a holder runs
    # What platforms say in their answers.
    *("not found", "not enough free gpus", "no longer any instances available", "data center"),
    *("no instances available", "no gpus available", "insufficient funds"),
    *("no longer available", "currently unavailable"),
}
A_BLANK = re.compile(r"\{\w*\}")


def sentences() -> dict[str, str]:
    """Each sentence with `{}` for its blanks, and where it stands."""
    found: dict[str, str] = {}
    for place in PLACES:
        for path in sorted(ROOT.glob(place)):
            name = path.relative_to(ROOT).as_posix()
            if name not in NOT:
                for text, line in sentences_of(ast.parse(path.read_text(encoding="utf-8"))):
                    found.setdefault(text, f"{name}:{line}")
    return found


def sentences_of(tree: ast.Module) -> list[tuple[str, int]]:
    """Each sentence of a module with `{}` for its blanks, and its line."""
    return [
        (A_BLANK.sub("{}", text), line)
        for text, line in literals(tree)
        if _is_sentence(A_BLANK.sub("{}", text))
    ]


def literals(tree: ast.Module) -> list[tuple[str, int]]:
    """Each text of a module that a person may read, with its line: `{}` for a value put in."""
    passed_over = {id(node) for node in ast.walk(tree) for node in _passed_over(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) not in passed_over and isinstance(node, ast.Constant | ast.JoinedStr):
            text = _template(node)
            if text:
                found.append((text, node.lineno))
    return found


def _passed_over(node: ast.AST) -> list[ast.AST]:
    """The literals below a node that no person reads, and the pieces of a longer text."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return [node.value]  # a docstring
    if isinstance(node, ast.JoinedStr):
        return [part for part in node.values if isinstance(part, ast.Constant)]
    if isinstance(node, ast.Assert) and node.msg is not None:
        return list(ast.walk(node.msg))
    if isinstance(node, ast.Call) and (_is_logged(node) or _is_translated(node)):
        return list(ast.walk(node))
    if isinstance(node, ast.AnnAssign):
        return list(ast.walk(node.annotation))
    return []


def _is_logged(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.value.id in LOGGERS
    return isinstance(function, ast.Name) and function.id == "cast"


def _is_translated(call: ast.Call) -> bool:
    """It has its Chinese in the other domain."""
    return isinstance(call.func, ast.Name) and call.func.id == "_"


def _template(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
    )


def _is_sentence(text: str) -> bool:
    words = A_BLANK.sub("", text).strip()
    return (
        " " in words
        and any(char.islower() for char in words)
        and not NOT_SENTENCES.match(text)
        and text not in ONLY_MATCHED
    )


def evidence_names() -> set[str]:
    """The names under which verdicts keep what they rest on, as they are shown: without units."""
    found: set[str] = set()
    for name in ("decide", "gate", "guards", "stalls", "verdicts"):
        tree = ast.parse((ROOT / "core" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                found |= {text for key in node.keys for text in _texts(key)}
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                found |= set(_texts(node.slice))
    return {re.sub(r"_(micros_per_hour|micros|ms|s)$", "", key) for key in found}


def _texts(node: ast.AST | None) -> list[str]:
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
