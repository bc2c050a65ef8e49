"""Whether a module's tests find a mutant: each one lives in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    from tests.mutants.plant import Mutant

ROOT = Path(__file__).resolve().parents[2]
# About twice what the tests of a module take. A mutant that never ends is found, too; counted on
# the processor, because a busy machine is no fault of it.
LONGEST_CPU_S = 12
# Hypothesis is loaded before pytest could rewrite it, once for all: that is no fault.
LOADED = "ignore::pytest.PytestAssertRewriteWarning"
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-W", LOADED)


class Planted(importlib.abc.Loader, importlib.abc.MetaPathFinder):
    """Gives the mutant to whoever imports its module."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = f"costguard.{mutant.module.replace('/', '.')}"
        self._code: CodeType = compile(mutant.tree, f"<mutant of {mutant.module}>", "exec")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Ours alone."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        """The changed code."""
        exec(self._code, module.__dict__)


def not_found(planted: Sequence[Mutant], tests: Sequence[str], side_by_side: int) -> list[Mutant]:
    """Those mutants with which every one of the tests passes, in their order."""
    waiting, left = list(planted), []
    running: dict[int, Mutant] = {}
    while waiting or running:
        while waiting and len(running) < side_by_side:
            mutant = waiting.pop(0)
            running[_start(mutant, tests)] = mutant
        child, status = os.wait()
        mutant = running.pop(child)
        if os.waitstatus_to_exitcode(status) == 0:
            left.append(mutant)
    return [mutant for mutant in planted if mutant in left]


def _start(mutant: Mutant, tests: Sequence[str]) -> int:
    """The process that this mutant lives in. Forked off the main thread: there is no other."""
    child = os.fork()
    if child == 0:
        os._exit(_run(mutant, tests))
    return child


def _run(mutant: Mutant, tests: Sequence[str]) -> int:
    import pytest

    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST_CPU_S, LONGEST_CPU_S))
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.meta_path.insert(0, Planted(mutant))
    with contextlib.suppress(SystemExit):
        return int(pytest.main([*PYTEST, *tests]))
    return 1
