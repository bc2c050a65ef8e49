"""Finding the Python that has what the training needs, without importing any of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NAMES = ("python3", "python")
# Where rental images keep the Python that has torch, when the SSH session's PATH does not name it.
USUAL_PLACES = ("/opt/conda/bin/python3", "~/miniconda3/bin/python3", "~/anaconda3/bin/python3")
MODULES = ("torch", "transformers", "peft", "bitsandbytes")
INSPECT_TIMEOUT_S = 60.0
INSPECT = """
import importlib.metadata, importlib.util, json, platform, sys
found = {}
for name in sys.argv[1:]:
    try:
        there = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        there = False
    try:
        found[name] = importlib.metadata.version(name) if there else None
    except importlib.metadata.PackageNotFoundError:
        found[name] = ""
print(json.dumps({"version": platform.python_version(), "modules": found}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python and what it could import: version texts, "" where unknown, None where missing."""

    path: str
    version: str
    modules: Mapping[str, str | None]

    def missing(self, needs: Iterable[str]) -> list[str]:
        """Which of `needs` it cannot import."""
        return [name for name in needs if self.modules.get(name) is None]


def candidates(path: str | None) -> list[str]:
    """Interpreters to try, best first: those on `path`, the agent's own, the usual places."""
    named = [shutil.which(name, path=path) for name in NAMES]
    usual = [str(Path(place).expanduser()) for place in USUAL_PLACES]
    existing = [place for place in usual if Path(place).exists()]
    found = [one for one in [*named, sys.executable, *existing] if one]
    return list(dict.fromkeys(found))


def inspect(
    python: str, modules: Sequence[str], env: Mapping[str, str], cwd: Path
) -> Interpreter | None:
    """What `python` is and has, started as the training would be; None if it does not run."""
    try:
        done = subprocess.run(
            [python, "-c", INSPECT, *modules],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=INSPECT_TIMEOUT_S,
            check=True,
            env=dict(env),
            cwd=cwd,
        )
        answer = json.loads(done.stdout)
        return Interpreter(python, answer["version"], answer["modules"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None


def find_python(
    needs: Sequence[str], env: Mapping[str, str], cwd: Path
) -> tuple[Interpreter | None, list[str]]:
    """The first interpreter that has every module of `needs`, or else what the best one lacks.

    Also says which of the modules that matter to us it has, for the probe.
    """
    wanted = list(dict.fromkeys([*needs, *MODULES]))
    fewest: list[str] | None = None
    for path in candidates(env.get("PATH")):
        interpreter = inspect(path, wanted, env, cwd)
        if interpreter is None:
            continue
        missing = interpreter.missing(needs)
        if not missing:
            return interpreter, []
        if fewest is None or len(missing) < len(fewest):
            fewest = missing
    return None, list(needs) if fewest is None else fewest
