"""`start`: has the agent of a directory running."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.agent import daemonize, llamafactory
from costguard.agent.answers import answer, refuse
from costguard.agent.environment import choose
from costguard.agent.launch import Launch, surroundings
from costguard.agent.service import Service
from costguard.agent.spec import PYTHON, SPEC_NAME, Spec, load_spec

if TYPE_CHECKING:
    import argparse


def run(_arguments: argparse.Namespace) -> int:
    """Starts the agent of this directory; says `already` where it runs.

    One that serves an earlier run whose training is over makes way for the new run.
    """
    spec = load_spec(Path(SPEC_NAME))
    umask = os.umask(0o077)
    lock = daemonize.take_lock()
    if lock is None:
        serving = daemonize.ask_agent("status")
        if serving is None:
            return refuse("agent_silent", "another agent holds this directory and is silent")
        if serving["run_id"] == spec.run_id:
            return answer({**serving, "t": "start", "already": True})
        if serving["training"] == "running":
            other = serving["run_id"]
            return refuse("busy", f"run {other!r} is still training here: stop it first")
        daemonize.ask_agent("retire")
        lock = daemonize.take_lock_within(daemonize.RETIRE_TIMEOUT_S)
        if lock is None:
            return refuse("agent_silent", "the agent of the earlier run does not make way")
    launch = _launch(spec, umask)
    if isinstance(launch, str):
        return refuse("missing_modules", launch)
    told = daemonize.detach(lambda report: _serve(spec, launch, report), spec.restart_s)
    if "error" in told:
        return refuse("agent_failed", told["error"])
    return answer(told)


def _launch(spec: Spec, umask: int) -> Launch | str:
    """How to start the training, or the sentence that says what is missing."""
    env = {**os.environ, **spec.env}
    has_marks = PYTHON in spec.argv or llamafactory.MARK in spec.argv
    packages = () if spec.install is None else spec.install.packages
    if not has_marks and not packages:
        return Launch(spec.argv, None, umask, surroundings(spec, None, env))
    found = choose(spec, env, Path())
    chosen = found.chosen
    if chosen is None:
        return f"no Python here can import: {', '.join(found.missing) or 'anything (none runs)'}"
    put = {PYTHON: [chosen.path]}
    if llamafactory.MARK in spec.argv:
        command = llamafactory.command(chosen, env)
        if command is None:
            return (
                "no LLaMA-Factory here: neither llamafactory-cli nor a checkout with src/train.py"
            )
        put[llamafactory.MARK] = command
    argv = [word for part in spec.argv for word in put.get(part, [part])]
    return Launch(argv, chosen.path, umask, surroundings(spec, chosen, env))


def _serve(spec: Spec, launch: Launch, report: Any) -> None:
    try:
        service = Service(spec, launch)
    except OSError as error:
        report({"error": f"{type(error).__name__}: {error}"})
        raise
    told = {"t": "start", "already": False, "pid": os.getpid(), "run_id": spec.run_id}
    told["guardian"] = os.getppid()
    service.run(lambda: report({**told, "python": launch.python}))
