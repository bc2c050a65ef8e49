"""Finding the LLaMA-Factory that an image brings: its command, or its scripts, old ones too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from costguard.agent.interpreters import Interpreter

MARK = "{llamafactory}"
"""Stands in `argv` for what starts a training; flags follow it, as all versions take them."""

CLI = "llamafactory-cli"
MODULE = "llamafactory"
# As its command does, in a Python that has the package and no command beside it.
CALL = "from llamafactory.cli import main; main()"
SHEBANG_BYTES = 512
# Where rental images put the checkout. A preset that is only unpacked there has no command.
ROOTS = (
    *("~/LLaMA-Factory", "/workspace/LLaMA-Factory", "/root/LLaMA-Factory", "/opt/LLaMA-Factory"),
    *("/app/LLaMA-Factory", "/app", "~/autodl-tmp/LLaMA-Factory", "/data/LLaMA-Factory"),
)
# The first until version 0.7; with the article's recipe it is `src/train_bash.py`.
SCRIPTS = ("src/train.py", "src/train_bash.py")


def find(
    python: str | None, env: Mapping[str, str], roots: Sequence[str] | None = None
) -> list[str] | None:
    """The words that start a training with flags after them; None where there is none.

    Its command on PATH, the one beside the Python that has the modules, or that Python with a
    script of a checkout, the newer script first.
    """
    on_path = shutil.which(CLI, path=env.get("PATH"))
    if on_path:
        return [on_path, "train"]
    if python is None:
        return None
    beside = Path(python).with_name(CLI)
    if beside.exists():
        return [str(beside), "train"]
    for root in ROOTS if roots is None else roots:
        for script in SCRIPTS:
            path = Path(root).expanduser() / script
            if _is_file(path):
                return [python, str(path)]
    return None


def command(
    python: Interpreter, env: Mapping[str, str], roots: Sequence[str] | None = None
) -> list[str] | None:
    """As `find`, for the Python that was chosen: what it has itself goes first."""
    beside = Path(python.path).with_name(CLI)
    if beside.exists():
        return [str(beside), "train"]
    if python.modules.get(MODULE) is not None:
        return [python.path, "-c", CALL, "train"]
    return find(python.path, env, roots)


def python_behind(env: Mapping[str, str]) -> str | None:
    """The Python that the command on PATH runs in, by its first line; None where it is no script.

    Images often keep LLaMA-Factory in an environment of its own that no `python3` leads to.
    """
    on_path = shutil.which(CLI, path=env.get("PATH"))
    if on_path is None:
        return None
    try:
        with Path(on_path).open("rb") as file:
            first = file.read(SHEBANG_BYTES).split(b"\n", 1)[0]
    except OSError:
        return None
    words = first.removeprefix(b"#!").decode("utf-8", "replace").strip()
    is_python = first.startswith(b"#!/") and Path(words).name.startswith("python")
    return words if is_python and Path(words).exists() else None


def _is_file(path: Path) -> bool:
    """Whether it is there for us: a folder that is another account's (/root) hides what it has."""
    try:
        return path.is_file()
    except PermissionError:
        return False
