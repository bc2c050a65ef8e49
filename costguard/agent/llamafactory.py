"""Finding the LLaMA-Factory that an image brings: its command, or its scripts, old ones too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MARK = "{llamafactory}"
"""Stands in `argv` for what starts a training; flags follow it, as all versions take them."""

CLI = "llamafactory-cli"
# Where rental images put the checkout. A preset that is only unpacked there has no command.
ROOTS = (
    *("~/LLaMA-Factory", "/workspace/LLaMA-Factory", "/root/LLaMA-Factory", "/opt/LLaMA-Factory"),
    *("/app/LLaMA-Factory", "/app", "~/autodl-tmp/LLaMA-Factory", "/data/LLaMA-Factory"),
)
# The first until version 0.7; with the article's recipe it is `src/train_bash.py`.
SCRIPTS = ("src/train.py", "src/train_bash.py")


def find(
    python: str | None, env: Mapping[str, str], roots: Sequence[str] = ROOTS
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
    for root in roots:
        for script in SCRIPTS:
            path = Path(root).expanduser() / script
            if _is_file(path):
                return [python, str(path)]
    return None


def _is_file(path: Path) -> bool:
    """Whether it is there for us: a folder that is another account's (/root) hides what it has."""
    try:
        return path.is_file()
    except PermissionError:
        return False
