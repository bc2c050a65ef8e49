"""`contact`: the first look at an instance, judged."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent.answers import answer
from costguard.agent.contact import contact, needs_from
from costguard.agent.spec import SPEC_NAME, load_spec

if TYPE_CHECKING:
    import argparse


def run(_arguments: argparse.Namespace) -> int:
    """Prints the `contact` message; stdin may hold `{"needs": {…}, "utc_ms": …}`."""
    asked: Any = json.loads(sys.stdin.read() or "{}")
    env = dict(os.environ)
    modules: tuple[str, ...] = ()
    if Path(SPEC_NAME).exists():
        spec = load_spec(Path(SPEC_NAME))
        env, modules = {**env, **spec.env}, spec.needs
    utc_ms = asked.get("utc_ms")
    known_ms = utc_ms if isinstance(utc_ms, int) else None
    needs = needs_from(asked.get("needs") or {})
    return answer(contact(needs, modules, env, Path(), known_ms))
