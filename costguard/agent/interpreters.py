"""Finding the Python that has what the training needs, without importing any of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.core.environment import PINNED, lacking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NAMES = ("python3", "python")
# Where rental images keep the Python that has torch, when the SSH session's PATH does not name it.
USUAL_PLACES = ("/opt/conda/bin/python3", "~/miniconda3/bin/python3", "~/anaconda3/bin/python3")
MODULES = (*PINNED, "transformers", "peft", "bitsandbytes")
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


@dataclass(frozen=True)
class Wanted:
    """What the training's Python is to have.

    `least`: least versions. `pythons`: the interpreters to try, best first; None: those that are
    usual. `ours` tells the Python of the whole environment of ours that stands on an interpreter,
    None where there is none; with `only_ours` nothing else will do.
    """

    needs: Sequence[str] = ()
    least: Mapping[str, str] = field(default_factory=dict)
    pythons: Sequence[str] | None = None
    ours: Callable[[Interpreter], str | None] | None = None
    only_ours: bool = False


@dataclass(frozen=True)
class Found:
    """The interpreter that has everything, or None with what is missing.

    `base`: the one that comes closest, on which an environment of ours can stand.
    """

    chosen: Interpreter | None
    missing: list[str]
    base: Interpreter | None


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


def find_python(wanted: Wanted, env: Mapping[str, str], cwd: Path) -> Found:
    """The first interpreter that has everything, or else what the best one lacks.

    Also says which of the modules that matter to us each has, for the probe.
    """
    modules = list(dict.fromkeys([*wanted.needs, *wanted.least, *MODULES]))
    pythons = candidates(env.get("PATH")) if wanted.pythons is None else wanted.pythons
    best = Found(None, list(dict.fromkeys([*wanted.needs, *wanted.least])), None)
    for path in pythons:
        base = inspect(path, modules, env, cwd)
        if base is None:
            continue
        missing = lacking(base.modules, wanted.needs, wanted.least)
        if not missing and not wanted.only_ours:
            return Found(base, [], base)
        inside = None if wanted.ours is None else wanted.ours(base)
        ours = None if inside is None else inspect(inside, modules, env, cwd)
        if ours is not None and not lacking(ours.modules, wanted.needs, wanted.least):
            return Found(ours, [], base)
        if best.base is None or _rank(base, missing) < _rank(best.base, best.missing):
            best = Found(None, missing, base)
    return best


def _rank(base: Interpreter, missing: Sequence[str]) -> tuple[bool, int]:
    """Those with torch first: everything else can be installed beside it."""
    return base.modules.get("torch") is None, len(missing)
