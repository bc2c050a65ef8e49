"""Stages: pieces of a measurement that are kept as they come, so that a cut costs one piece.

A card is rented by the hour and a session on it may end at any moment. Each piece ends within a
few minutes and leaves a file; what has its file is not done again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.bench.turns import write_whole
from trainer.exits import FINISHED, SAVED_ON_REQUEST
from trainer.progress import say, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

POLL_S = 0.002


@dataclass(frozen=True)
class Piece:
    """One piece: `measure(folder)` gives its facts, in `limit_s` at most or nearly so."""

    name: str
    limit_s: float
    measure: Callable[[Path], Mapping[str, Any]]

    def folder(self, out: Path) -> Path:
        """Where its files are."""
        return out / "".join(c if c.isalnum() else "-" for c in self.name)


def run_pieces(out: Path, pieces: Sequence[Piece], budget_s: float) -> int:
    """FINISHED once each piece has its facts; SAVED_ON_REQUEST where `budget_s` is spent before.

    Then the same command goes on. A piece that fails is told and passed over.
    """
    began_s = time.monotonic()
    failed = False
    for piece in pieces:
        folder = piece.folder(out)
        if (folder / "facts.json").exists():
            continue
        if time.monotonic() - began_s + piece.limit_s > budget_s:
            say(f"left for the next call of the same command: {piece.name} and what follows")
            return SAVED_ON_REQUEST
        folder.mkdir(parents=True, exist_ok=True)
        say(f"{piece.name} …")
        try:
            facts = piece.measure(folder)
        except AssertionError as error:
            warn(f"{piece.name}: {error}")
            failed = True
            continue
        write_whole(folder / "facts.json", dict(facts))
    return 1 if failed else FINISHED


def facts_of(out: Path, pieces: Sequence[Piece]) -> dict[str, dict[str, Any]]:
    """The facts of the pieces that are done, by name."""
    paths = {piece.name: piece.folder(out) / "facts.json" for piece in pieces}
    return {name: json.loads(path.read_bytes()) for name, path in paths.items() if path.exists()}


def environment_of(tool: str, peers: Path | None) -> dict[str, str]:
    """The environment of a tool's process: LLaMA-Factory needs older packages than the others."""
    environment = dict(os.environ)
    if tool == "llamafactory" and peers:
        environment["PYTHONPATH"] = f"{peers}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return environment


def run_trainer(
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    limit_s: float,
    watch: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> tuple[int, float]:
    """(exit code, seconds from start to end) of `python -m trainer ARGUMENTS`.

    `watch(process)` is called over and over while it runs. AssertionError after `limit_s`.
    """
    command = [sys.executable, "-W", "ignore", "-m", "trainer", *arguments]
    began_s = time.monotonic()
    with log.open("ab") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env=dict(environment))
        try:
            while child.poll() is None:
                if time.monotonic() - began_s > limit_s:
                    raise AssertionError(f"not done within {limit_s:.0f} s: see {log}")
                if watch:
                    watch(child)
                time.sleep(POLL_S)
        finally:
            child.kill()
            child.wait()
    return child.returncode, time.monotonic() - began_s


def logged(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that have a loss; a step that was done again counts as last done."""
    lines = (output_dir / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    by_step = {facts["current_steps"]: facts for facts in found if "loss" in facts}
    return [by_step[step] for step in sorted(by_step)]
