"""`probe`: what the machine offers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.agent import VERSION
from costguard.agent.answers import answer
from costguard.agent.environment import choose
from costguard.agent.interpreters import Wanted, find_python
from costguard.agent.probe import probe
from costguard.agent.spec import SPEC_NAME, load_spec

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def run(_arguments: argparse.Namespace) -> int:
    """Prints what the machine offers; reads the order for what is needed, if it is there."""
    env: Mapping[str, str] = os.environ
    if Path(SPEC_NAME).exists():
        spec = load_spec(Path(SPEC_NAME))
        env = {**os.environ, **spec.env}
        found = choose(spec, env, Path())
    else:
        found = find_python(Wanted(), env, Path())
    return answer({**probe(found, env, Path()), "agent_version": VERSION})
