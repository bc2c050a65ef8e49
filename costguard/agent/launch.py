"""How a training is started, as found out before the agent itself is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.agent.environment import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from costguard.agent.interpreters import Interpreter
    from costguard.agent.spec import Spec

# Where each keeps what it fetches: by which variable, as what, and where without it.
CACHES = (
    ("COSTGUARD_MODELS", "models", "~/.cache/costguard/models"),
    ("HF_HOME", "huggingface", "~/.cache/huggingface"),
    ("MODELSCOPE_CACHE", "modelscope", "~/.cache/modelscope"),
)


@dataclass(frozen=True)
class Launch:
    """How the training is started: its command line with the interpreter put in.

    `env`: what its environment holds beside the order's and the machine's own.
    """

    argv: Sequence[str]
    python: str | None
    umask: int
    env: Mapping[str, str] = field(default_factory=dict)


def surroundings(spec: Spec, python: Interpreter | None, env: Mapping[str, str]) -> dict[str, str]:
    """The caches on the persistent disk, and the environment of ours first on PATH.

    What the image or the order says of a cache stands, and one that is there already is used:
    a model of 15 GB is not fetched again because it lies elsewhere.
    """
    extra: dict[str, str] = {}
    if spec.caches is not None:
        root = Path(spec.caches).resolve()
        for key, name, usual in CACHES:
            if not env.get(key) and not Path(usual).expanduser().exists():
                extra[key] = str(root / name)
    if python is not None:
        folder = Path(python.path).parent.parent
        if (folder / MARKER).is_file():
            path = [str(folder / "bin"), *filter(None, [env.get("PATH")])]
            extra |= {"VIRTUAL_ENV": str(folder), "PATH": os.pathsep.join(path)}
    return extra
