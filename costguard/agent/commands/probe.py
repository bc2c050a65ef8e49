"""`probe`: what the machine offers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.agent import VERSION
from costguard.agent.answers import answer
from costguard.agent.probe import probe
from costguard.agent.spec import SPEC_NAME, load_spec

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence


def run(_arguments: argparse.Namespace) -> int:
    """Prints what the machine offers; reads the order for what is needed, if it is there."""
    needs: Sequence[str] = ()
    env: Mapping[str, str] = os.environ
    if Path(SPEC_NAME).exists():
        spec = load_spec(Path(SPEC_NAME))
        needs, env = spec.needs, {**os.environ, **spec.env}
    return answer({**probe(needs, env, Path()), "agent_version": VERSION})
