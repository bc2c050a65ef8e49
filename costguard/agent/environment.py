"""An environment of our own on the instance's disk: found, made, and filled with what is missing.

It stands on the image's Python and sees all its packages; what pip puts into it is seen first.
Nothing of the image is changed, and its torch, torchvision and torchaudio are never replaced.
Whole is an environment with a marker, which is written last: without one it is made anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.agent import llamafactory
from costguard.agent.interpreters import Found, Wanted, candidates, find_python
from costguard.core.environment import PINNED, environment_key, pins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from costguard.agent.interpreters import Interpreter
    from costguard.agent.spec import Install, Spec

MARKER = "costguard.json"
BASE_PATHS = "costguard-base.pth"
CONSTRAINTS = "constraints.txt"
QUICK_TIMEOUT_S = 120.0
# `venv` sees the packages of the base's own prefix alone: a base that is a virtual environment
# itself, or has some elsewhere on its path, is seen through these lines.
SITE_PATHS = """
import os, sys
for path in sys.path:
    if os.path.basename(path) in ("site-packages", "dist-packages"):
        print(path)
"""
OWN_SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


class InstallError(Exception):
    """The environment could not be made; `code` is a stable word for why."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


def choose(spec: Spec, env: Mapping[str, str], cwd: Path) -> Found:
    """The Python that has all that the order needs: the image's, or of an environment of ours.

    For LLaMA-Factory a checkout, or a command whose Python cannot be looked into, will do too.
    """
    wanted = _wanted(spec, env, cwd)
    found = find_python(wanted, env, cwd)
    if found.chosen is None and not found.missing and spec.install is not None:
        return replace(found, missing=list(spec.install.packages))
    if found.chosen is not None or llamafactory.MODULE not in spec.needs:
        return found
    others = [name for name in spec.needs if name != llamafactory.MODULE]
    without = find_python(replace(wanted, needs=others), env, cwd)
    known = None if without.chosen is None else without.chosen.path
    return without if known and llamafactory.find(known, env) is not None else found


def _wanted(spec: Spec, env: Mapping[str, str], cwd: Path) -> Wanted:
    install, behind = spec.install, None
    if llamafactory.MODULE in spec.needs:
        behind = llamafactory.python_behind(env)
    pythons = [*([behind] if behind else []), *candidates(env.get("PATH"))]
    if spec.python is not None:
        pythons = [str(Path(spec.python).expanduser())]
    if install is None:
        return Wanted(spec.needs, spec.least, pythons)
    return Wanted(
        needs=spec.needs,
        least=spec.least,
        pythons=pythons,
        ours=lambda base: python_of(folder_of(install, base, cwd)),
        only_ours=bool(install.packages),
    )


def folder_of(install: Install, base: Interpreter, cwd: Path) -> Path:
    """Where the environment for these wishes on that Python stands, or is to stand."""
    wishes = [*install.requirements, *install.packages]
    key = environment_key(base.path, base.version, pins(base.modules), wishes)
    return Path(cwd, install.root).resolve() / key


def python_of(folder: Path) -> str | None:
    """The Python of a whole environment; None where there is none."""
    python = folder / "bin" / "python"
    return str(python) if (folder / MARKER).is_file() and python.exists() else None


def make(base: Interpreter, folder: Path, env: Mapping[str, str]) -> str:
    """An empty environment on that Python, made anew; returns its Python. InstallError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Without pip of its own: the base's is seen through it, and Debian's Python cannot make one.
    _quick([base.path, "-m", "venv", "--without-pip", "--system-site-packages", str(folder)], env)
    python = str(folder / "bin" / "python")
    paths = _quick([base.path, "-c", SITE_PATHS], env)
    inside = _quick([python, "-c", OWN_SITE], env).strip()
    (Path(inside) / BASE_PATHS).write_text(paths, encoding="utf-8")
    try:
        _quick([python, "-m", "pip", "--version"], env)
    except InstallError:
        _quick([python, "-m", "ensurepip", "--default-pip"], env)
    (folder / CONSTRAINTS).write_text("\n".join([*pins(base.modules), ""]), encoding="utf-8")
    return python


def pip_command(python: str, folder: Path, install: Install) -> list[str]:
    """The command line that fills the environment, under the image's own torch."""
    wishes = [*install.requirements, *install.packages]
    index = [] if install.index is None else ["--index-url", install.index]
    return [
        *(python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"),
        *("--progress-bar", "off", "--prefer-binary", "--constraint", str(folder / CONSTRAINTS)),
        *(*index, *wishes),
    ]


def pip_environment(env: Mapping[str, str], root: Path) -> dict[str, str]:
    """What pip is started with: its cache on the persistent disk, and nothing that leads it out."""
    kept = {key: text for key, text in env.items() if key not in ("PIP_TARGET", "PIP_PREFIX")}
    return {**kept, "PIP_USER": "0", "PIP_CACHE_DIR": str(root / "pip-cache")}


def seal(base: Interpreter, folder: Path, install: Install) -> None:
    """Declares it whole, unless it holds a torch of its own: then InstallError, and it is gone."""
    for name in PINNED:
        if base.modules.get(name) and list(folder.glob(f"lib*/python*/site-packages/{name}")):
            shutil.rmtree(folder, ignore_errors=True)
            what = f"pip put another {name} before the image's {base.modules[name]}"
            raise InstallError("torch_replaced", what)
    holds = {
        "python": base.path,
        "version": base.version,
        "constraints": pins(base.modules),
        "requirements": [*install.requirements, *install.packages],
        "made_at_ms": time.time_ns() // 1_000_000,
    }
    fresh = folder / f".{MARKER}"
    fresh.write_text(json.dumps(holds), encoding="utf-8")
    fresh.rename(folder / MARKER)


def _quick(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """The output of a command that takes a moment; InstallError with what it said."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=QUICK_TIMEOUT_S,
            check=False,
            env=dict(env),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError("no_environment", f"{' '.join(argv[:4])}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise InstallError("no_environment", f"{' '.join(argv[:4])}: {said[-1][:300]}")
    return done.stdout
