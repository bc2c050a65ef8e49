"""`contact`: the first look at an instance, judged."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent.answers import answer
from costguard.agent.contact import contact, needs_from
from costguard.agent.environment import choose
from costguard.agent.interpreters import Wanted, find_python
from costguard.agent.launch import surroundings
from costguard.agent.spec import SPEC_NAME, load_spec

if TYPE_CHECKING:
    import argparse


def run(_arguments: argparse.Namespace) -> int:
    """Prints the `contact` message; stdin may hold `{"needs": {…}, "utc_ms": …}`."""
    asked: Any = json.loads(sys.stdin.read() or "{}")
    env = dict(os.environ)
    needs = needs_from(asked.get("needs") or {})
    if Path(SPEC_NAME).exists():
        spec = load_spec(Path(SPEC_NAME))
        env |= spec.env
        env |= surroundings(spec, None, env)
        spec = replace(spec, needs=tuple(dict.fromkeys([*spec.needs, *needs.versions])))
        found = choose(spec, env, Path())
    else:
        found = find_python(Wanted(tuple(needs.versions)), env, Path())
    utc_ms = asked.get("utc_ms")
    known_ms = utc_ms if isinstance(utc_ms, int) else None
    return answer(contact(needs, found, env, Path(), known_ms))
